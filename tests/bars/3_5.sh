#!/usr/bin/env bash
# Bar 5 of issue #3: one CPU training step beside transformers + torch's AdamW. Wants the machine for itself. Arguments go to
# bench/step_vs_transformers.py (--size demo|large|both, --threads N). Exit status 0, 1, or 77 where transformers is not installed.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
"$PYTHON" bench/step_vs_transformers.py "$@"
status=$?
[ $status = 77 ] && exit 77
verdict 5 "a training step's time beside transformers'" $status
