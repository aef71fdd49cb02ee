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

# run_tests PROGRAM FILTER: runs tests of build/release/tests (CONCLAVE_BUILD), says how many passed and what they recorded; fails if
# one did not pass or none matched. Tests that are skipped for want of a GPU do not count.
run_tests() {
  local said code count program="${CONCLAVE_BUILD:-build/release}/tests/$1" record
  [ -x "$program" ] || { echo "     no $program"; return 1; }
  record="$(mktemp)"
  said="$(CONCLAVE_PYTHON="$PYTHON" "$program" --gtest_filter="$2" --gtest_output="json:$record" 2>&1)"
  code=$?
  count="$(echo "$said" | grep -c '^\[       OK \]')"
  echo "     $1 $2: $count passed"
  "$PYTHON" - "$record" <<'PY'
import json, sys

known = {"name", "file", "line", "status", "result", "timestamp", "time", "classname", "value_param", "type_param", "failures", "skipped"}
try:
    suites = json.load(open(sys.argv[1]))["testsuites"]
except ValueError:
    suites = []
for test in (test for suite in suites for test in suite["testsuite"]):
    for key in sorted(test.keys() - known) if test["result"] == "COMPLETED" else ():
        value = f"{float(test[key]):.1e}" if "e-" in test[key] else test[key]
        print(f"         {test['name']}: {key}: {value}")
PY
  rm -f "$record"
  [ $code = 0 ] && [ "$count" -gt 0 ] && return 0
  echo "$said" | grep -E '^\[  FAILED|Failure|^Expected' | head -8
  return 1
}

# claims TEXT: lines of "what is claimed|program|filters, separated by spaces"; says of each whether its tests pass, fails if not all.
claims() {
  local status=0 claim program filters holds
  while IFS='|' read -r claim program filters; do
    [ -z "$claim" ] && continue
    holds=0
    set -f
    for filter in $filters; do run_tests "$program" "$filter" || holds=1; done
    set +f
    if [ $holds = 0 ]; then echo "PASS $claim"; else echo "FAIL $claim"; status=1; fi
  done <<<"$1"
  return $status
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
