#!/usr/bin/env bash
# Bar 8 of issue 3: no two-way pair of rooms, no file over 500 lines, the median under 150; docs/one_token.md holds, word for word,
# the page with which `conclave pretrain configs/pretrain/demo.yaml --dry-run` ends. After `make build`.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
status=0
python3 tools/check_layers.py || status=1

page=$("$CONCLAVE_BINARY" pretrain configs/pretrain/demo.yaml --dry-run | sed -n '/^One token through the house/,$p')
[ -n "$page" ] || { echo "--dry-run printed no page that begins with: One token through the house"; status=1; }
PAGE=$page python3 - <<'PY' || status=1
import difflib, os, pathlib, sys

page, text = os.environ["PAGE"].strip(), pathlib.Path("docs/one_token.md").read_text()
if page in text:
    sys.exit(print(f"docs/one_token.md holds the page of --dry-run, {page.count(chr(10)) + 1} lines"))
lines = text.splitlines()
start = next((i for i, line in enumerate(lines) if line.startswith("One token through the house")), 0)
print(*difflib.unified_diff(lines[start:], page.splitlines(), "docs/one_token.md", "--dry-run", lineterm=""), sep="\n")
sys.exit(1)
PY
verdict 8 "rooms, sizes, docs/one_token.md" $status
