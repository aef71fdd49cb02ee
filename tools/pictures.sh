#!/usr/bin/env bash
# tools/pictures.sh [FOLDER]: draws the pictures of docs/parallel.md into docs/pictures, or FOLDER. After `make build`; a test
# (tests/recipes/pictures_test.py) holds them up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-docs/pictures}
conclave=${CONCLAVE_BINARY:-build/release/conclave}
"$conclave" pretrain configs/pretrain/olmoe_7b_8_ranks.yaml --dry-run --svg "$folder/parallel_8.svg" >/dev/null
"$conclave" pretrain configs/pretrain/gptoss_120b_64_ranks.yaml --dry-run --svg "$folder/parallel_64.svg" >/dev/null
