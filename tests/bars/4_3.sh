#!/usr/bin/env bash
# Bar 3 of issue #4: every published layout, and what transformers' save_pretrained writes, is read and written again with its
# names, shapes and bytes. Needs recipes_test in CONCLAVE_BUILD (default build/release), and transformers.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
said="$(CONCLAVE_PYTHON="$PYTHON" "${CONCLAVE_BUILD:-build/release}/tests/recipes_test" --gtest_filter='*RoundTrip.*:SavedConfig.*' 2>&1)"
code=$?
echo "$said" | grep -E '^\[ +(OK|FAILED|SKIPPED) |Failure'
grep -q SKIPPED <<<"$said" && { echo "transformers is needed"; exit 77; }
verdict 4.3 "round trip of every published layout" $code
