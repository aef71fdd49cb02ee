"""Parity of `conclave forward` with transformers' OLMoE: issue #4, the architecture of docs/adding_a_model.md. See compare.py."""

import sys

import compare

if __name__ == "__main__":
    sys.exit(compare.main("olmoe"))
