#!/usr/bin/env bash
# Issue #4: a folder of 3 B parameters loads with anonymous memory of its bf16 size plus 0.5 GB, whatever its format. Needs 8 GB of
# memory and 7 GB of disk in TMPDIR. 4_memory.sh [MODEL ...]: qwen3_moe, gpt_oss, deepseek_v3, or all without arguments;
# CONCLAVE_PARAMETERS changes their number.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
"$PYTHON" tests/bars/load_memory.py "$@"
verdict 4.memory "anonymous memory of loading" $?
