"""Parity of `conclave forward` with transformers' Qwen3-MoE: issue #3, bar 3, and issue #4, bar 1. See compare.py."""

import sys

import compare

if __name__ == "__main__":
    sys.exit(compare.main("qwen3_moe"))
