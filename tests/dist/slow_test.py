"""One of three processes takes longer for its own work: the progress line and metrics.jsonl name it and its lag. Over Gloo, and over
NCCL where there is a GPU, which they share. Exit status 0 or 1."""

import json
import pathlib
import re
import sys
import tempfile

from processes import ROOT, Started, Tally, has_gpu, launch

sys.path.append(str(ROOT / "tests/bars"))

from tiny_run import TinyRun  # noqa: E402

SLOW, SECONDS, STEPS = 1, 0.3, 40  # a line comes every ten seconds


def trial(folder, tiny, tally, device, **settings):
    output = folder / device
    command = tiny.command(output, device=device, steps=STEPS, schedule__warmup_steps=0, batch__rows=12, batch__micro_rows=4,
                           validation__every=0, checkpoint__every=0, threads=1, **settings)
    ended = Started(launch(3, *command[1:], logs=folder / f"{device}-logs"), CONCLAVE_DELAY_AT=f"train.step:{int(1000 * SECONDS)}",
                    CONCLAVE_FAULT_RANK=SLOW, CONCLAVE_SHARE_GPU=1).end()
    lag, shown = 0, []
    if ended.status == 0:
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        named = [line["slowest_rank"] for line in lines if "lag" in line]
        lag = lines[-1].get("lag", 0)
        shown = re.findall(r"slowest rank (\d+) \(\+(\d+) %\)", ended.output)
        if len(named) < STEPS - 3 or set(named[5:]) != {SLOW} or not 0.3 < lag < 1:
            ended.status = f"0, but metrics.jsonl names {named}, lag {lag}"
        elif {int(rank) for rank, _ in shown} != {SLOW}:
            ended.status = f"0, but the progress lines say {shown}"
    tally.check(f"{device}: rank {SLOW} of 3 is slow, lag {lag:.2f} of a step, shown as {shown}", ended, 0)


def main():
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tiny = TinyRun(folder / "shared")
        trial(folder, tiny, tally, "cpu")
        if has_gpu():
            trial(folder, tiny, tally, "cuda", dtype="bf16")
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())
