#!/usr/bin/env bash
# Bar 1 of issue #6, its planted faults: each of five is caught by a test (tests/bars/planted_faults.py builds a copy of the sources with
# them in build/planted). After `make build` with the tests' setup.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
"$PYTHON" tests/bars/planted_faults.py
verdict 6.1 "five planted faults are caught" $?
