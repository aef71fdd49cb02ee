#!/usr/bin/env bash
# Bar 8 of issue #6: overlap on one GPU. Delays of known length in each dispatch (and combine) of the rank proxy: the step takes at most
# 1.15 of the longer of what it takes without them and their sum. Qwen3-30B: a second micro-batch hides dispatches and combines;
# DeepSeek-V3: the shared expert hides dispatches. The trace shows kernels of another stream during the delays. Two minutes of one GPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 6.8

status=0
# case NAME MODEL BESIDE DELAYS SETTING...: DELAYS as "dispatch=500 combine=500".
case_of() {
  local name="$1" model="$2" beside="$3" delays=() delay
  for delay in $4; do delays+=("transfer.$delay"); done
  local run=("${@:5}" warmup=2 steps=5 "memory_limit=72 GiB")
  measure "$name.alone" "$model" "${run[@]}" &&
    measure "$name.serial" "$model" "${run[@]}" "${delays[@]}" &&
    measure "$name" "$model" "${run[@]}" "${delays[@]}" "transfer.beside=$beside" "profile=$OUT/$name.trace.json" &&
    figures beside "$name" "$name.alone" "$name.serial" || status=1
}
case_of two_micro_batches qwen3_moe_30b two_micro_batches "dispatch=500 combine=500" \
  layers=12 batch.rows=8 batch.micro_rows=1 'recompute=[]'
case_of shared_expert deepseek_v3 micro_batch "dispatch=400" layers=3 batch.rows=4 batch.micro_rows=1 'recompute=[]'
verdict 6.8 "delays in dispatches are hidden by a second micro-batch or the shared expert" $status
