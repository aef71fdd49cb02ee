#!/usr/bin/env bash
# Bar 3 of issue #3: `conclave forward` agrees with transformers. Prints a line a model and precision, and the worst figures.
# Uses CONCLAVE_BINARY or build/release/conclave. Exit status 0, 1, or 77 where transformers is not installed.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

parity="$("$PYTHON" tests/parity/qwen3_moe_parity.py)"
status=$?
echo "$parity"
[ $status = 77 ] && exit 77
echo "worst figures:"
for kind in "fp32 logits" "fp64 logits"; do
  echo "$parity" | awk -v kind="$kind" 'index($0, kind) {
    for (i = 1; i < NF; ++i) if ($i == "logits" || $i == "loss" || $i == "gradients") if (!($i in worst) || $(i + 1) + 0 > worst[$i] + 0) worst[$i] = $(i + 1)
  } END { printf "  %s: logits %s, loss %s, gradients %s\n", substr(kind, 1, 4), worst["logits"], worst["loss"], worst["gradients"] }'
done
echo "$parity" | awk "/10 steps' losses/ { if (!(\$2 in worst) || \$6 + 0 > worst[\$2] + 0) worst[\$2] = \$6 }
  END { for (k in worst) printf \"  %s: ten AdamW steps' losses %s\n\", k, worst[k] }" | sort
verdict 3 "parity with transformers" $status
