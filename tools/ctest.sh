#!/usr/bin/env bash
# tools/ctest.sh PRESET [CTEST ARGUMENTS...]: runs the tests of build/PRESET, two (CONCLAVE_TEST_JOBS) at a time, and names those that were skipped
# with the reason each gave. CTest's own summary comes last, whatever it says.
set -uo pipefail
cd "$(dirname "$0")/.."
source .cache/setup/env
dir=build/$1
shift
ctest=$(dirname "$conclave_cmake")/ctest
summary=$dir/ctest_summary.txt

"$ctest" --test-dir "$dir" --output-on-failure --parallel "${CONCLAVE_TEST_JOBS:-2}" "$@" |
  awk -v summary="$summary" '/% tests passed/ { at_end = 1 } at_end { print > summary; next } { print; fflush() }'
status=${PIPESTATUS[0]}

# A whole test says why in its output; one case of a GoogleTest program says it after "Skipped". Cases with one reason are
# counted.
awk '
  function skipped(why) { if (!cases[why]++) found[++n] = why }
  /^[0-9]+\/[0-9]+ Testing: / { test = $3 }
  /^skipped: / { skipped(test ": " substr($0, 10)) }
  /: Skipped$/ { getline reason; skipped(test ": " reason) }
  END {
    if (n) print "\nSkipped, and why:"
    else print "\nNo test was skipped."
    for (i = 1; i <= n; ++i) print "  " found[i] (cases[found[i]] > 1 ? " (" cases[found[i]] " cases)" : "")
    print ""
  }' "$dir/Testing/Temporary/LastTest.log"
cat "$summary"
exit "$status"
