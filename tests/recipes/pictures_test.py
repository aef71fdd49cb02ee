"""The pictures of docs/parallel.md are what tools/pictures.sh draws now, and what --svg needs is said."""

import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))

from program import ROOT, binary, conclave  # noqa: E402

failures = []


def check(what, holds, seen=""):
    print(("ok    " if holds else "FAILED ") + what + ("" if holds else f": {seen}"))
    if not holds:
        failures.append(what)


def main():
    page = (ROOT / "docs" / "parallel.md").read_text()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([ROOT / "tools" / "pictures.sh", folder], check=True, env=os.environ | {"CONCLAVE_BINARY": binary()})
        for ranks in (8, 64):
            name = f"parallel_{ranks}.svg"
            drawn = (pathlib.Path(folder) / name).read_text()
            check(f"docs/pictures/{name}", drawn == (ROOT / "docs" / "pictures" / name).read_text(), "run tools/pictures.sh")
            texts = [e.text for e in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
            check("  is XML with all ranks", all(texts.count(f"rank {r}") == 1 for r in range(ranks)), texts)
            check("  is on the page", f"(pictures/{name})" in page)

        svg = pathlib.Path(folder) / "launched.svg"
        done = conclave("launch", "-n", 4, "--logs", folder, "pretrain", "configs/pretrain/demo.yaml", "--dry-run", "--svg", svg)
        fine = done.returncode == 0 and "# 4 ranks: dp_replicate 1 · dp_shard 4, ep_replicate 1 · ep_shard 1 · ep 4" in done.stdout
        check("as many as are launched", fine and "rank 3<" in svg.read_text(), done.stdout + done.stderr)
        done = conclave("launch", "-n", 3, "--logs", folder, "pretrain", "configs/pretrain/demo.yaml", "--dry-run")
        check("rows that ranks cannot share", done.returncode == 2 and "expected a multiple of 3" in done.stdout + done.stderr, done.stdout + done.stderr)
        svg = pathlib.Path(folder) / "one.svg"
        done = conclave("pretrain", "configs/pretrain/demo.yaml", "--dry-run", "--svg", svg)
        check("one rank has no picture", done.returncode == 2 and "parallel.dp_shard" in done.stderr and not svg.exists(), done.stderr)
        done = conclave("pretrain", "configs/pretrain/demo.yaml", "--svg", svg)
        check("a run draws none", done.returncode == 2 and "add --dry-run" in done.stderr and not svg.exists(), done.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
