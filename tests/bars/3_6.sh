#!/usr/bin/env bash
# Bar 6 of issue #3: `conclave help` within 1 s; loading 1 GB of safetensors within 1.2 × a plain read of the files. The second
# figure is bench/load_bench's (build with -DCONCLAVE_BENCH=ON, or name the program in LOAD_BENCH).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

status=0
best=999999
for _ in 1 2 3 4 5; do
  begin=$(date +%s%N)
  "$CONCLAVE_BINARY" help >/dev/null || { echo "conclave help: exit status $?"; status=1; }
  took=$((($(date +%s%N) - begin) / 1000000))
  [ $took -lt $best ] && best=$took
done
echo "conclave help: $best ms (minimum of 5), bar 1000 ms"
[ $best -lt 1000 ] || status=1

load="${LOAD_BENCH:-$(dirname "$CONCLAVE_BINARY")/bench/load_bench}"
if [ -x "$load" ]; then
  said="$("$load")" || status=1
  echo "$said"
  ratio="$(echo "$said" | sed -n 's/.*bf16 into bf16 .* \([0-9.]*\) x (bar.*/\1/p')"
  echo "loading: ${ratio:-no figure} x a plain read, bar 1.2"
  awk "BEGIN { exit !(${ratio:-9} <= 1.2) }" || status=1
else
  echo "$load: not built"
  status=1
fi
verdict 6 "start and loading" $status
