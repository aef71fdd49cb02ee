"""Traps that other systems stepped into, seen in whole runs (docs/traps.md): `traps_test.py [trap10 | trap12]`. Exit status 0, 1, or 77
where trap10, which needs transformers, cannot run."""

import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / folder) for folder in ("bars", "parity")]

from program import conclave  # noqa: E402
from tiny_run import TinyRun, sets  # noqa: E402


def trap10(tmp):
    """Saved experts that no other program can read: for every family, what a run trains and saves is read by transformers, no name
    missing and none too many, computes the same logits there, and is saved again with the same bits."""
    import export_parity  # leaves with 77 if transformers is missing
    import reference
    from family import FAMILIES, family

    tiny, good = TinyRun(tmp / "shared"), True
    for model_type in FAMILIES:
        of, folder = family(model_type), tmp / model_type
        case = dataclasses.replace(of.cases[0], config=of.cases[0].config | dict(vocab_size=320, eos_token_id=None))
        reference.make_folder(folder, of, case)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny.folder / "tokenizer" / name, folder)
        run = {"output": str(tmp / f"{model_type}_run"), "threads": 1, "steps": 2, "model": {"from": str(folder)}, "schedule": {"kind": "constant", "warmup_steps": 0}}
        run["data"] = {"text": {"paths": [str(tiny.folder / "text")]}, "seq_len": 32, "cache": str(tmp / "cache")}
        run |= {"batch": {"rows": 4, "micro_rows": 2}, "validation": {"every": 0}, "checkpoint": {"every": 2}}
        path = tmp / f"{model_type}.yaml"
        path.write_text(json.dumps(run))  # JSON is YAML
        done = conclave("pretrain", path)
        print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {model_type}: two steps from a folder {done.stderr if done.returncode else ''}")
        good = done.returncode == 0 and export_parity.check((tmp / f"{model_type}_run" / "latest").resolve()) and good
    return good


def trap12(tmp):
    """Resume that consumes one more random draw or one more batch: stopped after 7 of 12 steps, within the second epoch, and gone on
    with, a run sees the batches, and ends in the bytes, of one that was not stopped."""
    tiny = TinyRun(tmp / "shared")
    how = dict(schedule__kind="constant", schedule__warmup_steps=2, batch__rows=64, batch__micro_rows=32, checkpoint__every=5, validation__every=0)
    for name, steps in (("whole", 12), ("parts", 7), ("parts", 12)):
        tiny.seconds(tmp / name, steps=steps, **how)
    seen = {}
    for name in ("whole", "parts"):
        lines = [json.loads(line) for line in (tmp / name / "metrics.jsonl").read_text().splitlines()]
        seen[name] = [[line[k] for k in ("step", "tokens", "loss", "aux", "grad_norm", "lr", "max_load")] for line in lines]
    good = len(seen["whole"]) == 12 and seen["whole"] == seen["parts"]
    print(f"{'ok  ' if good else 'FAIL'} twelve steps' batches, losses and norms{'' if good else f': {seen}'}")
    for path in sorted((tmp / "whole" / "latest").glob("*.safetensors")):
        same = path.read_bytes() == (tmp / "parts" / "latest" / path.name).read_bytes()
        print(f"{'ok  ' if same else 'FAIL'} {path.name}: {'the same bytes' if same else 'other bytes'}")
        good = good and same
    return good


def main():
    wanted = sys.argv[1:] or ["trap10", "trap12"]
    good = True
    for name in wanted:
        with tempfile.TemporaryDirectory() as tmp:
            good = globals()[name](pathlib.Path(tmp)) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
