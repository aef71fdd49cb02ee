#!/usr/bin/env bash
# Bar 6 of issue #5: the peak of memory lies within 3 % of its forecast. 5_6.sh [MODEL ...], all five without arguments. One minute of
# one GPU where nothing was measured before.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.6

status=0
models=("$@")
[ $# != 0 ] || models=(qwen3_moe_30b gptoss_20b deepseek_v3 kimi_k2 gptoss_120b)
for model in "${models[@]}"; do
  name="$model"  # the run of bars 1 and 2, or a short one
  fresh "$OUT/$name.json" || name="${model}_memory"
  [ "$name" = "$model" ] || measure "$name" "$model" gate=real precision=bf16 batch.rows=4 warmup=1 steps=1 traced_steps=0 "memory_limit=72 GiB" || { status=1; continue; }
  figures memory "$name" 0.03 || status=1
done
verdict 5.6 "peak memory against its forecast" $status
