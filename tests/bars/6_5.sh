#!/usr/bin/env bash
# Bar 5 of issue 6: one dead rank, one that hangs, a config that differs on one rank, a full disk on one rank, a message of the wrong
# size: each one clear message naming the rank within 60 s, exit status other than 0 on all ranks, no damaged file, no process left.
# NaN on one rank: skipped on all and counted; more in a row than configured: an error likewise. After `make build` and the tests' programs.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
export CONCLAVE_RANK_CASES="${CONCLAVE_RANK_CASES:-$PWD/build/release/tests/rank_cases}"
status=0
"$PYTHON" tests/dist/faults_test.py || status=1
"$PYTHON" tests/dist/faults_test.py stands_still_as_shipped || status=1
for part in kill full_disk background nan; do
  "$PYTHON" tests/dist/pretrain_test.py --only $part || status=1
done
verdict 6.5 "faults of one rank" $status
