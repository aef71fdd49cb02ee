"""Every shipped config loads and dry-runs; docs/one_token.md is what --dry-run says; bad configs are one message and status 2."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))

from program import ROOT, conclave  # noqa: E402

DEMO = "configs/pretrain/demo.yaml"
failures = []


def check(what, holds, seen=""):
    print(("ok    " if holds else "FAILED ") + what + ("" if holds else f": {seen}"))
    if not holds:
        failures.append(what)


for path in sorted((ROOT / "configs" / "pretrain").glob("*.yaml")):
    verb = "train-tokenizer" if path.stem.endswith("_tokenizer") else "pretrain"
    done = conclave(verb, path.relative_to(ROOT), "--dry-run")
    check(f"{verb} {path.name} --dry-run", done.returncode == 0, done.stderr)
    if verb == "pretrain":
        parts = ("# FLOPs of a token", "attention's projections", "experts ", "# Memory", "weights ", "gradients ", "activations: attention ", "total ")
        check("  with FLOPs by term and memory by class", all(p in done.stdout for p in parts), done.stdout)

for path in sorted((ROOT / "configs" / "benchmark").glob("*.yaml")):
    done = conclave("benchmark", path.relative_to(ROOT), "--dry-run")
    check(f"benchmark {path.name} --dry-run", done.returncode == 0 and "# Memory" in done.stdout, done.stderr)

page = conclave("help", "--config").stdout
check("docs/config.md", page == (ROOT / "docs" / "config.md").read_text(), "run `conclave help --config > docs/config.md`")

page = conclave("pretrain", DEMO, "--dry-run").stdout
page = page[page.index("One token through the house") :].strip()
check("docs/one_token.md", page in (ROOT / "docs" / "one_token.md").read_text(), "run --dry-run and put its last page there")

for sets, expected in [
    (["optimizer.weight_deacy=0.1"], "did you mean `weight_decay`?"),
    (["model.config.num_expert=8"], "did you mean `num_experts`?"),
    (["steps=many"], "expected a whole number"),
    (["schedule.kind=constant", "schedule.min_ratio=0.1"], "has no effect"),
    (["batch.micro_rows=99"], "expected at most batch.rows"),
    (["model.from=runs/other"], "expected one of model.config"),
    (["memory.recompute=[gates]"], "cannot be made again"),
    (["model.bias_update_rate=0.01"], "no correction bias"),
    (["model.config.num_experts_per_tok=9"], "num_experts_per_tok"),
    (["model.config.num_experts=0"], "`num_experts`: expected an integer of at least 1, got 0"),
    (["parallel.dp_shard=2", "parallel.capacity=0.9"], "expected a number >= 1"),
    (["parallel.dp_shard=2", "parallel.capacity=2", "parallel.dispatcher=all_gather"], "has no effect with dispatcher all_gather"),
    (["parallel.dp_shard=2", "parallel.capacity=2", "parallel.ep=1"], "has no effect with ep 1"),
    (["parallel.dp_shard=2", "parallel.at_once=2", "parallel.ep=1", "batch.micro_rows=1"], "has no effect with ep 1"),
    (["parallel.dp_shard=2", "parallel.at_once=2", "batch.micro_rows=8", "batch.rows=16"], "has no effect with one micro-batch a rank"),
]:
    done = conclave("pretrain", DEMO, "--dry-run", *[word for s in sets for word in ("--set", s)])
    fine = done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1
    check(" ".join(sets), fine, f"status {done.returncode}: {done.stderr}")

done = conclave("pretrain", DEMO, "--dry-run", "--set", "parallel.dp_shard=2", "--set", "parallel.capacity=1.5")
check("a capacity's calls", done.returncode == 0 and "with room for" in done.stdout, done.stderr)
done = conclave("pretrain", "no-such.yaml")
check("a config that is not there", done.returncode == 2 and "no-such.yaml" in done.stderr, done.stderr)
for words in (["pretrian"], ["pretian", DEMO], ["help", "pretrin"]):
    done = conclave(*words)
    check("a misspelt verb", done.returncode == 2 and "did you mean `pretrain`?" in done.stderr, f"status {done.returncode}: {done.stderr}")
done = conclave("dance")
check("an unknown verb", done.returncode == 2 and "there is no verb `dance`" in done.stderr, f"status {done.returncode}: {done.stderr}")

if __name__ == "__main__":
    sys.exit(1 if failures else 0)
