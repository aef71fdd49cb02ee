"""Bar 2 of issue #3: what a finished demo has learned.

    demo_quality.py RUN TEXT [TEXT ...]      RUN: the demo's output folder; TEXT: files and folders it was trained on

From RUN/summary.json: the validation loss ends at least 0.1 nat a token below the bigram model's, within the time, on enough
text. From 2,000 tokens sampled by `conclave generate`: at least 90 % of the words ([A-Za-z]+, as written, upper and lower case
told apart) occur in the text; the figure without regard to case is printed too. Needs Python alone. Exit status 0 or 1.
"""

import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))

from program import conclave  # noqa: E402

WORD = re.compile(r"[A-Za-z]+")
TOKENS = 2000


def judge(summary):
    """[(what, holds)]"""
    final, bigram = summary["final_validation_loss"], summary["bigram_nats_per_token"]
    return [
        (f"validation loss {final:.4f} nats a token ({summary['bits_per_byte']:.4f} bits a byte), best {summary['best_validation_loss']:.4f}; "
         f"bigram {bigram:.4f} ({summary['bigram_bits_per_byte']:.4f}); {bigram - final:.3f} below, bar 0.1", bigram - final >= 0.1),
        (f"trained for {summary['seconds']:.0f} s, bar 240 s", summary["seconds"] <= 240),
        (f"{summary['train_bytes'] + summary['validation_bytes']:,} bytes of text, bar 1,000,000", summary["train_bytes"] >= 1_000_000),
        (f"{summary['validation_bytes']:,} bytes of it held out, bar 100,000", summary["validation_bytes"] >= 100_000),
        (f"vocabulary {summary['vocab']}, bar 1,024 to 2,048", 1024 <= summary["vocab"] <= 2048),
    ]  # fmt: skip


def sample(model):
    """At least TOKENS sampled tokens as text: several texts, since a text ends where its document does or the model's room ends."""
    texts, made = [], 0
    while made < TOKENS:
        done = conclave("generate", "--model", model, "--samples", 20, "--max-tokens", 200, "--seed", 1000 + len(texts))
        count = re.search(r"(\d+) tokens", done.stderr)
        if done.returncode or not count or int(count.group(1)) == 0:
            sys.exit(f"conclave generate: exit status {done.returncode}: {done.stderr.strip()[-300:]}")
        texts.append(done.stdout)
        made += int(count.group(1))
    return "\n".join(texts), made


def words_of(paths):
    files = [f for p in map(pathlib.Path, paths) for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.suffix in (".txt", ".jsonl")]
    if not files:
        sys.exit(f"no .txt or .jsonl file in {', '.join(paths)}")
    seen = set()
    for f in files:
        text = f.read_text(encoding="utf-8")
        lines = [json.loads(line)["text"] for line in text.splitlines() if line.strip()] if f.suffix == ".jsonl" else [text]
        for line in lines:
            seen.update(WORD.findall(line))
    return seen


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    run = pathlib.Path(sys.argv[1]).resolve()
    results = judge(json.loads((run / "summary.json").read_text()))
    known = words_of(sys.argv[2:])
    lowered = {w.lower() for w in known}
    text, made = sample(run / "latest")
    words = WORD.findall(text)
    exact = sum(w in known for w in words) / max(len(words), 1)
    loose = sum(w.lower() in lowered for w in words) / max(len(words), 1)
    results.append((f"{made} sampled tokens, {len(words)} words: {exact:.1%} occur in the text ({loose:.1%} without regard to case), bar 90 %",
                    exact >= 0.9 and len(words) >= 200))  # fmt: skip
    for what, holds in results:
        print(f"{'ok  ' if holds else 'FAIL'} {what}")
    print("a sample:", " ".join(text.split())[:600])
    return 0 if all(holds for _, holds in results) else 1


if __name__ == "__main__":
    sys.exit(main())
