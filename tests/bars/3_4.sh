#!/usr/bin/env bash
# Bar 4 of issue #3: kill -9 at 20 random moments and at every named point of a save; the resumed run ends in the same bytes.
# Needs Python alone. Arguments go to kill_resume.py (--random N, --seed S, --only points). Takes some minutes.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
"$PYTHON" tests/bars/kill_resume.py "$@"
verdict 4 "killed runs end like undisturbed ones" $?
