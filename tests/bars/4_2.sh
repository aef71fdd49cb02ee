#!/usr/bin/env bash
# Bar 2 of issue #4: FP8 and MXFP4 are dequantized bit for bit: every code times every scale, zeros, NaN, ragged edges, any part of
# a tensor, against the formats' specifications and against transformers' own functions. Needs checkpoint_test in CONCLAVE_BUILD
# (default build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
CONCLAVE_PYTHON="$PYTHON" "${CONCLAVE_BUILD:-build/release}/tests/checkpoint_test" --gtest_filter='Dequantize.*:Stored*'
verdict 4.2 "dequantization bit for bit" $?
