# What the scripts of the bars share: sourced from the repository's root.
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python3)}"
CONCLAVE_BINARY="${CONCLAVE_BINARY:-$PWD/build/release/conclave}"
export PYTHON CONCLAVE_BINARY

# verdict BAR WHAT STATUS: prints PASS or FAIL and leaves with STATUS. BAR is 4.1, or 1 for 3.1.
verdict() {
  local bar="$1"
  [[ "$bar" == *.* ]] || bar="3.$bar"
  if [ "$3" = 0 ]; then echo "PASS bar $bar: $2"; else echo "FAIL bar $bar: $2"; fi
  exit "$3"
}

# worst_figures SAID: the largest deviations that a parity program (tests/parity/family_parity.py) printed.
worst_figures() {
  local kind
  for kind in "fp32 logits" "fp64 logits"; do
    echo "$1" | awk -v kind="$kind" 'index($0, kind) {
      for (i = 1; i < NF; ++i) if ($i == "logits" || $i == "loss" || $i == "gradients") if (!($i in worst) || $(i + 1) + 0 > worst[$i] + 0) worst[$i] = $(i + 1)
    } END { printf "  %s: logits %s, loss %s, gradients %s\n", substr(kind, 1, 4), worst["logits"], worst["loss"], worst["gradients"] }'
  done
  echo "$1" | awk "/10 steps' losses/ { if (!(\$2 in worst) || \$6 + 0 > worst[\$2] + 0) worst[\$2] = \$6 }
    END { for (k in worst) printf \"  %s: ten AdamW steps' losses %s\n\", k, worst[k] }" | sort
}
