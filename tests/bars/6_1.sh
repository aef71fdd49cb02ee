#!/usr/bin/env bash
# Bar 1 of issue #6: the matrix of layouts on thread ranks in fp64 (tests/ranks): all factorisations of 1, 2, 4, 6 and 8 ranks into
# (dp_replicate, dp_shard; ep_replicate, ep_shard, ep) × four families × dispatchers, three steps with clipping: losses within 1e-12,
# every gradient and weight within 1e-10 of one rank; at most 12 minutes. CONCLAVE_BUILD: the build folder (build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
program="${CONCLAVE_BUILD:-build/release}/tests/ranks_test"
[ -x "$program" ] || { echo "no $program; make build"; verdict 6.1 "the matrix of layouts" 1; }
start=$EPOCHREALTIME
said="$("$program" --gtest_filter='*Matrix*' 2>&1)"
code=$?
seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.0f", b - a }')
echo "$said" | grep -E '^[0-9]+ ranks: |Failure|^\[  FAILED' | head -40
passed=$(echo "$said" | grep -c '^\[       OK \]')
echo "$passed worlds of 5 passed in $seconds s (limit 720 s)"
[ "$code" = 0 ] && [ "$passed" = 5 ] && [ "$seconds" -le 720 ]
verdict 6.1 "every layout of 1, 2, 4, 6 and 8 thread ranks equals one rank" $?
