#!/usr/bin/env bash
# Bar 4 of issue 6: 200 random pairs of layouts, one saves and the other loads, bytes equal; kill -9 of a random rank of 2 to 4, 25 times at
# a random moment and 25 times at named points between write, fsync and rename: `latest` always loads, and the resumed run ends with the
# same bytes. After `make build` and the tests' programs. Arguments go to kill_ranks.py (--trials N, --seed S). About a quarter of an hour.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
status=0
run_tests ranks_test 'Checkpoints.*' || status=1
"$PYTHON" tests/bars/kill_ranks.py "$@" || status=1
verdict 6.4 "checkpoints between layouts, and killed ranks" $status
