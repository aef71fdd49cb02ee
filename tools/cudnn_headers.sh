#!/usr/bin/env bash
# tools/cudnn_headers.sh PYTHON DIR: fetches the wheel of tools/requirements-cudnn.txt with PYTHON's pip, whatever that Python's
# version, and leaves its headers in DIR/include.
set -euo pipefail
rm -rf "$2.part"
"$1" -m pip download --disable-pip-version-check --no-input --no-deps --only-binary=:all: --require-hashes --python-version 3.11 \
  --implementation cp --platform manylinux_2_28_x86_64 -r tools/requirements-cudnn.txt -d "$2.part/wheel"
"$1" -m zipfile -e "$2.part"/wheel/*.whl "$2.part/all"
rm -rf "$2"
mkdir -p "$2"
mv "$2.part/all/include" "$2"
rm -r "$2.part"
