"""A checkpoint that `conclave pretrain` wrote loads in transformers, without a missing or unexpected key, and computes the same
logits as `conclave forward` on it; AutoTokenizer reads its tokenizer; saved again by transformers its tensors have the same bits.

`export_parity.py CHECKPOINT` checks a folder that is there (e.g. runs/demo/latest); without an argument it trains tiny models
for a few steps by tests/bars/kill.yaml. Exit status 0, 1, or 77 where transformers is not installed."""

import json
import os
import pathlib
import sys
import tempfile

import reference  # leaves with 77 if transformers is missing
import torch
from program import ROOT, forward
from reference import deviation


def check(folder):
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(config["vocab_size"], (2, 40), generator=random)
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        reference.write_ids(f"{tmp}/ids.st", ids)
        for name, kind, tolerance in (("fp32", "float32", 1e-5), ("fp64", "lifted", 1e-10)):
            want, _ = reference.run(folder, ids, None, kind)  # asserts that no key is missing or unexpected
            got = forward(folder, f"{tmp}/ids.st", f"{tmp}/out.st", "--dtype", name)
            off = deviation(got["logits"], want["logits"])
            print(f"{'ok  ' if off <= tolerance else 'FAIL'} {name}: logits off by {off:.1e}, loss {got['loss'].item():.4f}")
            good = good and off <= tolerance
        good = check_tokenizer(folder) and same_bytes(folder, config.get("dtype") or config["torch_dtype"], tmp) and good
    return good


def check_tokenizer(folder):
    """transformers reads the tokenizer files of the folder, and they go round."""
    if not (pathlib.Path(folder) / "tokenizer.json").exists():
        print("FAIL no tokenizer.json in the folder")
        return False
    model_type = json.loads((pathlib.Path(folder) / "config.json").read_text())["model_type"]
    known = model_type in reference.transformers.CONFIG_MAPPING  # transformers does not know every one that is published
    kind = reference.transformers.AutoTokenizer if known else reference.transformers.PreTrainedTokenizerFast
    tokenizer = kind.from_pretrained(folder)
    text = "It was the best of times, it was the worst of times.\n\nNaïve? 100%!"
    back = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    print(f"{'ok  ' if back == text else 'FAIL'} {kind.__name__}: {type(tokenizer).__name__}, text goes round{'' if back == text else ': ' + back}")
    return back == text


def same_bytes(folder, dtype, tmp):
    """transformers reads it and writes it again: the same tensors, bit for bit."""
    from safetensors.torch import load_file

    reference.load(folder, dtype).save_pretrained(f"{tmp}/again")
    a, b = ({k: v for p in sorted(pathlib.Path(f).glob("model*.safetensors")) for k, v in load_file(p).items()} for f in (folder, f"{tmp}/again"))
    same = a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)
    print(f"{'ok  ' if same else 'FAIL'} {len(a)} tensors, saved again by transformers: {'the same' if same else 'others'}")
    return same


def main():
    if len(sys.argv) > 1:
        return 0 if check(os.path.realpath(sys.argv[1])) else 1
    sys.path.insert(0, str(ROOT / "tests" / "bars"))
    from tiny_run import TinyRun

    good = True
    with tempfile.TemporaryDirectory() as tmp:
        tiny = TinyRun(f"{tmp}/shared")
        for dtype in ("fp32", "bf16", "fp64"):
            run = pathlib.Path(tmp) / dtype
            tiny.seconds(run, dtype=dtype, steps=20)
            print(f"a run in {dtype}:")
            good = check((run / "latest").resolve()) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
