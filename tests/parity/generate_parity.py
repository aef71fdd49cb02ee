"""`conclave generate` for every family: its greedy text, made token by token with the cache, is what transformers says of whole
sequences without one. In fp64, so that no rounding chooses another token. Exit status 0, 1, or 77 without transformers."""

import dataclasses
import pathlib
import shutil
import sys
import tempfile

import reference  # leaves with 77 if transformers is missing
import torch
from family import FAMILIES, family
from program import ROOT, conclave

sys.path.insert(0, str(ROOT / "tests" / "bars"))
from tiny_run import TinyRun, sets  # noqa: E402

PROMPT, TOKENS = "ba di ko", 40  # longer than every window of the families' cases


def greedy(folder, tokenizer):
    model, ids = reference.load(folder, "lifted"), tokenizer.encode(PROMPT, add_special_tokens=False)
    start = len(ids)
    with reference.lifted(), torch.no_grad():
        for _ in range(TOKENS):
            ids.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
    return PROMPT + tokenizer.decode(ids[start:])


def check(model_type, case, tokenizer_folder):
    of = family(model_type)
    with tempfile.TemporaryDirectory() as folder:
        reference.make_folder(folder, of, dataclasses.replace(case, config=case.config | dict(vocab_size=320, eos_token_id=None)))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer_folder / name, folder)
        want = greedy(folder, reference.transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json"))
        how = sets(model=folder, prompt=PROMPT, max_tokens=TOKENS, temperature=0, dtype="fp64")
        done = conclave("generate", *how)
    good = done.returncode == 0 and done.stdout == want + "\n"
    print(f"{'ok  ' if good else 'FAIL'} {model_type}, {case.name}{'' if good else f': {done.stdout!r}, expected {want!r} {done.stderr}'}", flush=True)
    return good


def main():
    with tempfile.TemporaryDirectory() as tmp:
        TinyRun(f"{tmp}/run")
        tokenizer = pathlib.Path(tmp) / "run" / "tokenizer"
        good = [check(t, case, tokenizer) for t in FAMILIES for case in family(t).cases[:2]]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
