#!/usr/bin/env bash
# Bar 8 of issue 3: no two-way pair of rooms, no file over 500 lines, the median under 150; docs/one_token.md is what
# `conclave pretrain configs/pretrain/demo.yaml --dry-run` prints of it.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 tools/check_layers.py
# The page stands in the dry run's output line by line, in its order.
build/release/conclave pretrain configs/pretrain/demo.yaml --dry-run |
  python3 -c '
import pathlib, sys
printed = iter(line.rstrip() for line in sys.stdin)
'
