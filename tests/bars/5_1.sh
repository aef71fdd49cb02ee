#!/usr/bin/env bash
# Bar 1 of issue #5: Qwen3-30B's rank proxy with its own router in bf16 reaches 0.50 of the GEMM rate under 72 GiB and 0.54 without a
# limit, and its layers are at least as fast as transformers' compiled ones at the same micro-batch. Five minutes of one GPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.1

status=0
run=(gate=real precision=bf16 batch.rows=16 warmup=3 steps=10)
measure qwen3_moe_30b qwen3_moe_30b "${run[@]}" "memory_limit=72 GiB" && figures speed qwen3_moe_30b 0.50 || status=1
measure qwen3_moe_30b_free qwen3_moe_30b "${run[@]}" memory_limit=none && figures speed qwen3_moe_30b_free 0.54 || status=1
for name in qwen3_moe_30b qwen3_moe_30b_free; do
  rows="$(figures get "$name" micro_rows)" && peer "qwen3_moe_30b:$rows" && figures layers "$name" "peer_qwen3_moe_30b_$rows" || status=1
done
verdict 5.1 "Qwen3-30B's rank proxy against the GEMM rate and transformers' layers" $status
