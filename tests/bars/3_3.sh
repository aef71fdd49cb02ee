#!/usr/bin/env bash
# Bar 3 of issue #3: `conclave forward` agrees with transformers. Prints a line a model and precision, and the worst figures.
# Uses CONCLAVE_BINARY or build/release/conclave. Exit status 0, 1, or 77 where transformers is not installed.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

parity="$("$PYTHON" tests/parity/family_parity.py qwen3_moe)"
status=$?
echo "$parity"
[ $status = 77 ] && exit 77
echo "worst figures:"
worst_figures "$parity"
verdict 3 "parity with transformers" $status
