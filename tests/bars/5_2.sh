#!/usr/bin/env bash
# Bar 2 of issue #5: the other models' rank proxies under 72 GiB against the GEMM rate, what an exact fp32 master costs, and the other
# gates. 5_2.sh [MODEL ...]: gptoss_20b, deepseek_v3, kimi_k2, gptoss_120b, and qwen3_moe_30b, which has only a master to pay for; all
# without arguments. One to four minutes of one GPU a model.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.2

declare -A at_least=([gptoss_20b]=0.54 [deepseek_v3]=0.58 [kimi_k2]=0.58 [gptoss_120b]=0.52 [qwen3_moe_30b]=0.50)

# What `master` costs beside the run in bf16, with its layers, micro-batch and what is made again, under its limit; where that does not
# fit, beside a run of as many layers without the limit, or of the most that do.
master() { # MODEL
  local model="$1" layers again run=(gate=real batch.rows=16 gradients=bf16 warmup=2 steps=3 traced_steps=0)
  layers="$(figures get "$model" layers)" && again="$(figures get "$model" recompute)" || return
  measure "${model}_master" "$model" "${run[@]}" precision=master "layers=$layers" "recompute=$again" "memory_limit=72 GiB" >"$OUT/refused" &&
    { figures cost "${model}_master" "$model" 0.03; return; }
  grep -q 'limit is' "$OUT/refused" || { cat "$OUT/refused"; return 1; }
  run+=(memory_limit=none)
  measure "${model}_master" "$model" "${run[@]}" precision=master "layers=$layers" >"$OUT/refused" || {
    grep -m 1 'limit is' "$OUT/refused" || { cat "$OUT/refused"; return 1; }
    measure "${model}_master" "$model" "${run[@]}" precision=master || return
    layers="$(figures get "${model}_master" layers)" || return
  }
  measure "${model}_plain" "$model" "${run[@]}" precision=bf16 "layers=$layers" && figures cost "${model}_master" "${model}_plain" 0.03
}

models=("$@")
[ $# != 0 ] || models=(gptoss_20b deepseek_v3 kimi_k2 gptoss_120b qwen3_moe_30b)
for model in "${models[@]}"; do
  [ "${at_least[$model]}" ] || { echo "5_2.sh: no model is called $model; there are ${!at_least[*]}" >&2; exit 2; }
done
status=0
for model in "${models[@]}"; do
  measure "$model" "$model" gate=real precision=bf16 batch.rows=16 warmup=3 steps=10 "memory_limit=72 GiB" &&
    figures speed "$model" "${at_least[$model]}" || status=1
  [ -f "$OUT/$model.json" ] || continue
  if [ "$model" = gptoss_20b ]; then
    rows="$(figures get gptoss_20b micro_rows)" && peer "gptoss_20b:$rows" && figures layers gptoss_20b "peer_gptoss_20b_$rows" shown || status=1
  fi
  master "$model" || status=1
  for gate in uniform balanced; do
    measure "${model}_$gate" "$model" "gate=$gate" precision=bf16 batch.rows=16 warmup=1 steps=1 traced_steps=0 "memory_limit=72 GiB" &&
      figures speed "${model}_$gate" || status=1
  done
done
verdict 5.2 "rank proxies against the GEMM rate, the master's cost, the other gates: ${models[*]}" $status
