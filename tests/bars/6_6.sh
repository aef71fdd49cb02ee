#!/usr/bin/env bash
# Bar 6 of issue #6: dry runs of Qwen3-30B on 8 ranks, of GPT-OSS-120B on 64, and on 1,024 with ep 64: the ledgers of all members of a
# group agree, bytes a rank a step equal closed forms, memory a rank; under 20 s on 2 cores. That a dry run makes the calls of a real
# step is shown on thread ranks. CONCLAVE_BUILD: the build folder (build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
program="${CONCLAVE_BUILD:-build/release}/tests/ranks_test"
[ -x "$program" ] || { echo "no $program; make build"; verdict 6.6 "dry runs" 1; }
"$program" --gtest_brief=1 --gtest_filter='DryStep.*' || verdict 6.6 "a dry step makes the calls of a real one" 1
start=$EPOCHREALTIME
"$program" --gtest_filter='DryRun.*' | grep -vE '^\[|^Note|^Running|^$'
code=${PIPESTATUS[0]}
seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
echo "$seconds s (limit 20 s)"
[ "$code" = 0 ] && awk -v s="$seconds" 'BEGIN { exit !(s <= 20) }'
verdict 6.6 "dry runs of published layouts agree with closed forms" $?
