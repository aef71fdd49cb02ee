"""Parity of `conclave forward` with transformers' GPT-OSS: issue #4, bar 1. See compare.py."""

import sys

import compare

if __name__ == "__main__":
    sys.exit(compare.main("gpt_oss"))
