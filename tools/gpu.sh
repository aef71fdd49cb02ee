#!/usr/bin/env bash
# tools/gpu.sh PART...: what is run on a GPU machine without a network: python3 there holds torch 2.11.0, and .offline/ (made by
# tools/offline.sh where there is a network) came with the tree.
#   build   from nothing to the program and its tests
#   test    the tests; those that need transformers too, where it is installed
# Logs go to $OUT, build/out where it is unset.
set -euo pipefail
cd "$(dirname "$0")/.."
export OUT=${OUT:-$PWD/build/out}
mkdir -p "$OUT"

build() {
  tools/setup.sh
  tools/build.sh release 2>&1 | tee "$OUT/build.log" | grep -vE '^\[[0-9]+/[0-9]+\] (Building|Linking)' || [ "${PIPESTATUS[0]}" = 0 ]
}

test_() {
  local without=()
  source .cache/setup/env
  "$conclave_python" -c 'import transformers, tokenizers, safetensors' 2>/dev/null || without=(-LE parity)
  tools/ctest.sh release "${without[@]}" 2>&1 | tee "$OUT/test.log"
}

(($#)) || { sed -n '2,6s/^# //p' "$0"; exit 2; }
for part in "$@"; do
  case $part in
    build) build ;;
    test) test_ ;;
    *) echo "tools/gpu.sh: no part is called $part; there are build and test" >&2; exit 2 ;;
  esac
done
