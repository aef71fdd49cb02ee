#!/usr/bin/env bash
# Bar 2 of issue #3: the demo's quality, from its finished run. Usage: 3_2.sh [RUN [TEXT ...]]; without arguments the output and
# the text of configs/pretrain/demo.yaml (run `make demo` first). Needs Python alone.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

demo=configs/pretrain/demo.yaml
setting() { sed -n "s/^ *$1: *\[\{0,1\}\([^]#]*\)\]\{0,1\} *\(#.*\)\{0,1\}\$/\1/p" "$demo" | head -1 | tr ',' ' '; }
run="${1:-$(setting output | xargs)}"
[ $# -gt 1 ] && shift && texts=("$@") || read -ra texts <<<"$(setting paths)"
if [ ! -f "$run/summary.json" ]; then
  echo "$run/summary.json: not there; run \`make demo\` first"
  verdict 2 "what the demo learns" 1
fi
"$PYTHON" tests/bars/demo_quality.py "$run" "${texts[@]}"
verdict 2 "what the demo learns" $?
