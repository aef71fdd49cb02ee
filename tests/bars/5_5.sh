#!/usr/bin/env bash
# Bar 5 of issue #5: a step of Qwen3-30B's rank proxy waits for the GPU nowhere and leaves it idle for at most 2 %; captured as a CUDA
# graph it is at least as fast and gives the same losses, bit for bit. Four minutes of one GPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.5

status=0
run=(gate=real precision=bf16 batch.rows=16 warmup=3 steps=10 "memory_limit=72 GiB")
measure qwen3_moe_30b qwen3_moe_30b "${run[@]}" && figures waits qwen3_moe_30b 0.02 || status=1
# Both with what a recording leaves room for; the card's clock moves by more than the two differ, so it lies between runs of the other.
same=(gate=real precision=bf16 batch.rows=16 warmup=4 steps=6 traced_steps=0 "memory_limit=72 GiB" "recompute=[norm, rotary]")
measure launched_before qwen3_moe_30b "${same[@]}" && measure captured qwen3_moe_30b "${same[@]}" cuda_graph=true &&
  measure launched_after qwen3_moe_30b "${same[@]}" && figures cost captured launched_before,launched_after 0 || status=1
# cuDNN's attention adds up gradients in any order, so bits are compared in deterministic mode.
exact=(gate=real precision=bf16 batch.rows=16 layers=8 warmup=5 steps=5 deterministic=true traced_steps=0)
measure exact qwen3_moe_30b "${exact[@]}" && measure exact_graph qwen3_moe_30b "${exact[@]}" cuda_graph=true &&
  figures same exact_graph exact || status=1
verdict 5.5 "no host sync, no gaps, the captured step" $status
