#!/usr/bin/env bash
# Bar 4 of issue #5: the table of time by part sums to the step within 2 % with at most 5 % for the rest, each part beside what is
# possible, and every memory-bound kernel moves its bytes at 0.80 of a copy. 5_4.sh [MODEL ...], qwen3_moe_30b without arguments.
# Two minutes of one GPU a model, and one for the kernels.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.4

status=0
for model in "${@:-qwen3_moe_30b}"; do
  measure "$model" "$model" gate=real precision=bf16 batch.rows=16 warmup=3 steps=10 "memory_limit=72 GiB" &&
    figures parts "$model" 0.02 0.05 || status=1
done
"$(dirname "$CONCLAVE_BINARY")/bench/kernels_bench" >"$OUT/kernels.jsonl" && figures kernels kernels.jsonl 0.80 || status=1
verdict 5.4 "time by part, and memory-bound kernels against a copy" $status
