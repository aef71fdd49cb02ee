"""`conclave pretrain` in bf16 on ranks that share one GPU and exchange fixed numbers of rows: in deterministic mode every loss and
gradient norm has the bits of a run that exchanges the counts first, though steps are run again for want of room; a run that is
stopped and gone on with ends in the same bytes. Exit status 0 or 1; 77 without a GPU.
"""

import json
import pathlib
import sys
import tempfile

from processes import ROOT, Started, Tally, has_gpu, launch

sys.path.append(str(ROOT / "tests/bars"))

from tiny_run import TinyRun  # noqa: E402

STEPS = 30
SETTINGS = {"steps": STEPS, "device": "cuda", "dtype": "bf16", "deterministic": "true", "validation__every": 10, "checkpoint__every": 15,
            "schedule__kind": "constant"}
FILES = ["model.safetensors", "optimizer.safetensors"]


def lines(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def difference(a, b, files):
    """What the run in `a` has other than that in `b`; empty: nothing."""
    other = [f"step {x['step']}: {key}" for x, y in zip(lines(a), lines(b), strict=True)
             for key in ("loss", "grad_norm", "max_load", "tokens", "validation_loss") if x.get(key) != y.get(key)]
    last = f"step-{STEPS:08d}"
    return other[:5] + [f for f in files if (a / last / f).read_bytes() != (b / last / f).read_bytes()]


def main():
    if not has_gpu():
        return 77
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tiny = TinyRun(folder / "shared")

        def run(name, ranks, steps=STEPS, **more):
            settings = SETTINGS | {"steps": steps, "batch__micro_rows": 8 // ranks} | more
            command = launch(ranks, *tiny.command(folder / name, **settings)[1:], logs=folder / f"{name}-logs", timeout=30)
            return Started(command, CONCLAVE_SHARE_GPU=1).end()

        def check(what, ended, name, like, files, *says):
            if ended.status == 0 and (other := difference(folder / name, folder / like, files)):
                ended.status = "0, but other: " + ", ".join(other)
            tally.check(what, ended, 0, *says)

        for ranks in 2, 4:
            counted, tight, parts = (f"{kind}-{ranks}" for kind in ("counted", "tight", "parts"))
            tally.check(f"{ranks} ranks, counted", run(counted, ranks), 0)
            ended = run(tight, ranks, parallel__capacity=1)
            check(f"{ranks} ranks, no margin", ended, tight, counted, FILES, "run again with")
            tally.check(f"{ranks} ranks, half of the steps", run(parts, ranks, STEPS // 2, parallel__capacity=1), 0)
            check(f"{ranks} ranks, gone on with", run(parts, ranks, parallel__capacity=1), parts, tight,
                  [*FILES, "train_state.safetensors"], "resuming from")
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())
