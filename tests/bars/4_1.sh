#!/usr/bin/env bash
# Bar 1 of issue #4: `conclave forward` agrees with transformers for every family of tests/parity/families: logits, every
# gradient, chosen experts, ten AdamW steps' losses. Then multi-token prediction against a plain fp64 reference, greedy texts of
# `conclave generate`, and folders that no test made: fresh random models written by transformers' save_pretrained. Prints the worst
# figures a family.
# Uses CONCLAVE_BINARY or build/release/conclave. Exit status 0, 1, or 77 where transformers is not installed.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

status=0
for file in tests/parity/families/*.py; do
  name="$(basename "$file" .py)"
  parity="$("$PYTHON" tests/parity/family_parity.py "$name")"
  code=$?
  [ $code = 77 ] && { echo "$parity"; exit 77; }
  echo "$parity"
  echo "worst figures of $name:"
  worst_figures "$parity"
  [ $code = 0 ] || status=1
done
"$PYTHON" tests/parity/mtp_parity.py || status=1
"$PYTHON" tests/parity/generate_parity.py || status=1
"$PYTHON" tests/bars/fresh_folders.py || status=1
verdict 4.1 "five architectures agree with transformers" $status
