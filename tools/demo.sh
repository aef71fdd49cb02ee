#!/usr/bin/env bash
# tools/demo.sh: `make demo`. Builds the program, fetches English text, trains a tokenizer and a small mixture-of-experts model,
# and samples from it. An interrupted run goes on where it was; after a finished one a new one begins and the old one is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
conclave=build/release/conclave
tokenizer_config=configs/pretrain/demo_tokenizer.yaml
config=configs/pretrain/demo.yaml
output_of() { sed -n 's/^output: *\([^ #]*\).*/\1/p' "$1"; }
tokenizer=$(output_of $tokenizer_config)
run=$(output_of $config)

tools/setup.sh
tools/build.sh release conclave
tools/fetch_text.sh

if [ ! -f "$tokenizer/tokenizer.json" ] || [ $tokenizer_config -nt "$tokenizer/tokenizer.json" ]; then
  say "training the tokenizer: conclave train-tokenizer $tokenizer_config"
  $conclave train-tokenizer $tokenizer_config
fi

if grep -q '"finished": true' "$run/summary.json" 2>/dev/null; then
  n=1
  while [ -e "$run-$n" ]; do n=$((n + 1)); done
  mv "$run" "$run-$n"
  say "the last run is finished; it is kept as $run-$n"
fi
say "training the model: conclave pretrain $config (Ctrl-C stops and saves; make demo then goes on)"
$conclave pretrain $config

say "a sample: conclave generate --model $run/latest --prompt \"The people of the United States\""
$conclave generate --model "$run/latest" --prompt "The people of the United States"
cat <<END

The model is in $run/latest, a Hugging Face folder; the numbers of every step are in $run/metrics.jsonl.
Try: $conclave generate --model $run/latest --prompt "My fellow citizens"
     $conclave pretrain $config --dry-run
     $conclave help
END
