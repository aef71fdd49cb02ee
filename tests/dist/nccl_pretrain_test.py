"""`conclave pretrain` in bf16 on ranks that share one GPU, over NCCL: fifty losses as close to one rank's as three times the difference
between two one-rank runs with other micro-batch cuts, for weights that are cut and for experts that are dealt out. Exit status 0
or 1; 77 without a GPU.
"""

import json
import pathlib
import sys
import tempfile

from processes import ROOT, Started, Tally, has_gpu, launch

sys.path.append(str(ROOT / "tests/bars"))

from tiny_run import TinyRun  # noqa: E402

STEPS = 50
SETTINGS = {"steps": STEPS, "device": "cuda", "dtype": "bf16", "validation__every": 0, "checkpoint__every": 0}
LAYOUTS = [(2, {}), (2, {"ep": 1}), (4, {"ep": 2}), (4, {"dp_replicate": 2, "ep": 4, "dispatcher": "all_gather"})]


def losses(output):
    return [json.loads(line)["loss"] for line in (pathlib.Path(output) / "metrics.jsonl").read_text().splitlines()]


def furthest(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def main():
    if not has_gpu():
        return 77
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tiny = TinyRun(folder / "shared")
        for name, micro_rows in ("one", 8), ("other-cut", 1):
            tally.check(f"one rank, {micro_rows} rows at once",
                        Started(tiny.command(folder / name, **SETTINGS, batch__micro_rows=micro_rows)).end(), 0)
        one = losses(folder / "one")
        allowed = 3 * furthest(losses(folder / "other-cut"), one)
        print(f"losses from {one[0]:.4f} to {one[-1]:.4f}; allowed: {allowed:.2e}")
        for i, (ranks, layout) in enumerate(LAYOUTS):
            output = folder / f"ranks-{i}"
            settings = SETTINGS | {"batch__micro_rows": 8 // ranks} | {f"parallel__{k}": v for k, v in layout.items()}
            command = launch(ranks, *tiny.command(output, **settings)[1:], logs=folder / f"logs-{i}", timeout=30)
            ended = Started(command, CONCLAVE_SHARE_GPU=1).end()
            off = furthest(losses(output), one) if ended.status == 0 else None
            if off is not None and off > allowed:
                ended.status = "0, but too far off"
            tally.check(f"{ranks} ranks, {layout or 'as it comes'}: off by {off}", ended, 0)
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())
