#!/usr/bin/env bash
# Bar 4 of issue 4: from the shipped configs, to the printed digit, parameters (without multi-token prediction) and FLOPs of a
# token at 4,096 tokens a row, as `conclave benchmark --dry-run` prints them. After `make build`.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
status=0
while read -r config parameters flops; do
  page=$("$CONCLAVE_BINARY" benchmark "configs/benchmark/$config.yaml" --dry-run) || { status=1; continue; }
  seen_parameters=$(sed -n 's/^parameters  \([0-9.]* [A-Z]\),.*/\1/p' <<<"$page")
  seen_flops=$(sed -n '/^# FLOPs/,/^total/s/^total *\([0-9.]*\) G$/\1/p' <<<"$page" | xargs printf '%.2f')
  verdict_line=equal
  [ "$seen_parameters" = "$parameters B" ] && [ "$seen_flops" = "$flops" ] || { verdict_line="expected $parameters B, $flops G"; status=1; }
  printf '%-14s %9s  %9s G a token  %s\n' "$config" "$seen_parameters" "$seen_flops" "$verdict_line"
done <<END
deepseek_v3 671.0 249.81
kimi_k2 1026.4 204.48
qwen3_moe_30b 30.5 23.01
gptoss_20b 20.9 22.91
gptoss_120b 116.8 32.63
END
verdict 4.4 "parameters and FLOPs of the five models" $status
