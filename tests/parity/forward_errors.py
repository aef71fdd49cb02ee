"""What `conclave forward` says to broken folders and inputs: exit status 1 or 2, one line that names the thing, and a good file at
--out survives. Exit status 0, 1, or 77 where transformers is not installed."""

import json
import os
import pathlib
import shutil
import sys
import tempfile

import reference  # leaves with 77 if transformers is missing
import torch
from families.qwen3_moe import config
from family import Case, family
from program import conclave
from safetensors.torch import load_file, save_file

CASE = Case("errors", config(vocab_size=50, hidden_size=16, head_dim=4, moe_intermediate_size=8), seed=1, batch=2, seq=5)
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


# ---- what is broken: each changes a copy of a good folder and the tensors of a good ids file ---------------------------


def weights(change):
    def apply(folder, tensors):
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def key(name, value):
    def apply(folder, tensors):
        held = json.loads((folder / "config.json").read_text())
        held.pop(name) if value is None else held.update({name: value})
        (folder / "config.json").write_text(json.dumps(held))

    return apply


def batch(**new):
    return lambda folder, tensors: tensors.update(new)


def truncate(name, keep):
    def apply(folder, tensors):
        path = folder / name
        os.truncate(path, int(path.stat().st_size * keep))

    return apply


def index_of_absent_shard(folder, tensors):
    held = load_file(folder / "model.safetensors")
    names = list(held)
    os.remove(folder / "model.safetensors")
    save_file({n: t for n, t in held.items() if n != EXPERT}, folder / "model-00001-of-00002.safetensors")
    where = {n: f"model-0000{1 + (n == EXPERT)}-of-00002.safetensors" for n in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def ids_with(value):
    x = torch.ones(2, 5, dtype=torch.int64)
    x[1, 3] = value
    return x


# name, what breaks it, further arguments, what the message must contain
BROKEN = [
    ("missing tensor", weights(lambda w: w.pop(EXPERT)), [], EXPERT),
    ("missing head", weights(lambda w: w.pop("lm_head.weight")), [], "lm_head.weight"),
    ("extra tensor", weights(lambda w: w.update({"model.layers.7.extra.weight": torch.zeros(2)})), [], "model.layers.7.extra.weight"),
    ("extra expert", weights(lambda w: w.update({EXPERT.replace(".2.", ".8."): w[EXPERT].clone()})), [], EXPERT.replace(".2.", ".8.")),
    ("misshapen tensor", weights(lambda w: w.update({QUERY: torch.zeros(3, 16)})), [], QUERY),
    ("transposed tensor", weights(lambda w: w.update({EXPERT: w[EXPERT].T.contiguous()})), [], EXPERT),
    ("tensor of integers", weights(lambda w: w.update({QUERY: w[QUERY].long()})), [], QUERY),
    ("truncated weights", truncate("model.safetensors", 0.6), [], "model.safetensors"),
    ("weights cut in their header", truncate("model.safetensors", 0.01), [], "model.safetensors"),
    ("empty weights file", truncate("model.safetensors", 0), [], "model.safetensors"),
    ("no weights file", lambda folder, t: os.remove(folder / "model.safetensors"), [], "model.safetensors"),
    ("index names an absent file", index_of_absent_shard, [], "model-00002-of-00002.safetensors"),
    ("no config.json", lambda folder, t: os.remove(folder / "config.json"), [], "config.json"),
    ("config.json cut", truncate("config.json", 0.5), [], "config.json"),
    ("unknown architecture", key("architectures", ["MambaForCausalLM"]), [], "MambaForCausalLM"),
    ("no hidden_size", key("hidden_size", None), [], "hidden_size"),
    ("hidden_size is a text", key("hidden_size", "wide"), [], "hidden_size"),
    ("more chosen than there are", key("num_experts_per_tok", 9), [], "num_experts_per_tok"),
    ("unsupported activation", key("hidden_act", "gelu"), [], "hidden_act"),
    ("scaled rotary", key("rope_parameters", dict(rope_type="llama3", rope_theta=1e4, factor=4.0)), [], "rope"),
    ("sliding window", key("use_sliding_window", True), [], "sliding_window"),
    ("label beyond the vocabulary", batch(labels=ids_with(50)), [], "50"),
    ("label below zero", batch(labels=ids_with(-1)), [], "-1"),
    ("id beyond the vocabulary", batch(input_ids=ids_with(50)), [], "50"),
    ("id below zero", batch(input_ids=ids_with(-7)), [], "-7"),
    ("labels of another shape", batch(labels=torch.ones(2, 4, dtype=torch.int64)), [], "labels"),
    ("ids of floats", batch(input_ids=torch.ones(2, 5)), [], "input_ids"),
    ("ids of one dim", batch(input_ids=torch.ones(5, dtype=torch.int64)), [], "input_ids"),
    ("ids by another name", lambda f, t: t.update(ids=t.pop("input_ids")), [], "input_ids"),
    ("steps need three dims", batch(), ["--steps", "2"], "input_ids"),
    ("fewer batches than steps", batch(input_ids=torch.ones(2, 2, 5, dtype=torch.int64)), ["--steps", "3"], "input_ids"),
    ("unknown dtype", batch(), ["--dtype", "fp8"], "fp8"),
    ("unknown flag", batch(), ["--gradz"], "gradz"),
    ("steps below one", batch(), ["--steps", "0"], "steps"),
]


def check(name, breaks, args, needle, good, tmp):
    folder, ids, out = tmp / "model", tmp / "ids.safetensors", tmp / "out" / "out.safetensors"
    for old in (folder, out.parent):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(good, folder)
    out.parent.mkdir()
    out.write_bytes(b"a good file")
    tensors = {"input_ids": ids_with(1)}
    breaks(folder, tensors)
    save_file(tensors, ids)
    return said(name, conclave("forward", "--model", folder, "--ids", ids, "--out", out, *args, timeout=120), needle, out)


def said(name, done, needle, out):
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    wrong = []
    if done.returncode not in (1, 2):
        wrong.append(f"exit status {done.returncode}")
    if len(lines) != 1:
        wrong.append(f"{len(lines)} lines on stderr")
    if needle not in done.stderr:
        wrong.append(f"does not name `{needle}`")
    if out is not None and out.read_bytes() != b"a good file":
        wrong.append("the file at --out did not survive")
    if out is not None and os.listdir(out.parent) != [out.name]:
        wrong.append(f"left behind: {os.listdir(out.parent)}")
    print(f"{'FAIL' if wrong else 'ok  '} {name}: {'; '.join(wrong + lines)[:400]}", flush=True)
    return not wrong


def main():
    results = []
    with tempfile.TemporaryDirectory() as root:
        tmp = pathlib.Path(root)
        good = tmp / "good"
        reference.make_folder(good, family("qwen3_moe"), CASE)
        results += [check(*row, good, tmp) for row in BROKEN]

        ids, out = tmp / "ids.safetensors", tmp / "out" / "out.safetensors"
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        save_file({"input_ids": ids_with(1)}, ids)
        model = ["forward", "--model", good, "--ids", ids]
        results.append(said("no such model folder", conclave("forward", "--model", tmp / "nowhere", *model[3:], "--out", out), "nowhere", None))
        results.append(said("--out in no folder", conclave(*model, "--out", tmp / "absent" / "o.st"), "absent", None))
        results.append(said("--out is a folder", conclave(*model, "--out", out.parent), str(out.parent), None))
        results.append(said("no --out", conclave(*model), "--out", None))
        ids.write_bytes(ids.read_bytes()[:-8])
        out.write_bytes(b"a good file")
        results.append(said("truncated ids file", conclave(*model, "--out", out), "ids.safetensors", out))

        save_file({"input_ids": ids_with(1)}, ids)
        fine = conclave(*model, "--out", out)
        results.append(fine.returncode == 0 and "logits" in load_file(out))
        print(f"{'ok  ' if results[-1] else 'FAIL'} and a good run replaces the file at --out {fine.stderr.strip()[:300]}")
    print(f"{sum(results)} of {len(results)} as they should be")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
