#!/usr/bin/env bash
# Bar 7 of issue #3: the seams are real. Each claim names the tests that show it; a claim of which one filter matched no test fails.
# The build folder with the test programs is CONCLAVE_BUILD (default build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
build="${CONCLAVE_BUILD:-build/release}"

# claim | test program | GoogleTest filters, separated by spaces
claims="
every layer's gradients are finite differences in fp64|nn_test|Tape.*
names, places and release of weights|nn_test|Weights.* Unit.*
weights freed after forward and filled again before backward give equal gradients|parallel_test|MicroBatch.ReleasedAndRefilledWeights
recompute by tensor class changes memory and not one bit of the gradients|parallel_test|MicroBatch.RecomputeByClass
weight gradients deferred to after the whole backward|parallel_test|MicroBatch.Deferred*
segments of two micro-batches interleaved give the same result|parallel_test|MicroBatch.Interleaved
the whole model's gradients are finite differences; a packed row is its documents|parallel_test|MicroBatch.GradientsAre* MicroBatch.APackedRow*
all-gather, reduce-scatter, all-reduce and all-to-all on threads with 1, 2 and 4 ranks|comm_test|Threads.AllGather* Threads.ReduceScatter* Threads.AllReduce* Threads.AllToAll* Meeting.*
a plain data-parallel step equals one rank's in fp64 to 1e-12|train_test|DataParallel.*
the cut into micro-batches, clipping and skipped steps|train_test|Step.*
"

# run PROGRAM FILTER: says how many tests passed; fails if one did not or none matched.
run() {
  local said code count
  said="$("$1" --gtest_filter="$2" 2>&1)"
  code=$?
  count="$(echo "$said" | grep -c '^\[       OK \]')"
  if [ $code = 0 ] && [ "$count" -gt 0 ]; then
    echo "     $2: $count passed"
    return 0
  fi
  echo "     $2: $count passed, exit status $code"
  echo "$said" | grep -E '^\[  FAILED|Failure' | head -5
  return 1
}

status=0
while IFS='|' read -r claim program filters; do
  [ -z "$claim" ] && continue
  path="$(find "$build" -name "$program" -type f -perm -u+x 2>/dev/null | head -1)"
  holds=0
  if [ -z "$path" ]; then
    echo "     no $program in $build"
    holds=1
  else
    set -f
    for filter in $filters; do run "$path" "$filter" || holds=1; done
    set +f
  fi
  if [ $holds = 0 ]; then echo "PASS $claim"; else echo "FAIL $claim"; status=1; fi
done <<<"$claims"
verdict 7 "the seams" $status
