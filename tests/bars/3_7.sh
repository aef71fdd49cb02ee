#!/usr/bin/env bash
# Bar 7 of issue #3: the seams are real. Each claim names the tests that show it; a claim without a test that ran fails.
# Usage: 3_7.sh [BUILD], a build folder with the test programs (default build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
build="${1:-build/release}"

# claim | test program | GoogleTest filter
claims="
weights freed after forward and filled again before backward give equal gradients|nn_test|*Release*:*Free*
recompute by tensor class changes memory and not one bit of the gradients|nn_test|*Recompute*
weight gradients deferred to after the whole backward|nn_test|*Defer*
segments of two micro-batches interleaved give the same result|parallel_test|*Interleave*
collectives on threads with 1, 2 and 4 ranks|comm_test|Threads.*:Meeting.*
a plain data-parallel step equals one rank's in fp64|train_test|*DataParallel*
"
status=0
while IFS='|' read -r claim program filter; do
  [ -z "$claim" ] && continue
  path="$(find "$build" -name "$program" -type f -perm -u+x | head -1)"
  if [ -z "$path" ]; then
    echo "FAIL $claim: no $program in $build"
    status=1
    continue
  fi
  said="$("$path" --gtest_filter="$filter" 2>&1)"
  code=$?
  count="$(echo "$said" | grep -c '^\[       OK \]')"
  if [ $code = 0 ] && [ "$count" -gt 0 ]; then
    echo "ok   $claim: $count tests of $program"
  else
    echo "FAIL $claim: $program --gtest_filter='$filter': $count tests passed, exit status $code"
    echo "$said" | grep -E '^\[  FAILED|Failure' | head -5
    status=1
  fi
done <<<"$claims"
verdict 7 "the seams" $status
