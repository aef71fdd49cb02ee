#!/usr/bin/env bash
# tools/test.sh [CTEST ARGUMENTS...]: `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh --tests
tools/build.sh release
exec tools/ctest.sh release "$@"
