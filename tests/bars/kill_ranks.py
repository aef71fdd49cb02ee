"""Bar 4 of issue #6, its second half: a run of several ranks, one of which is killed at any moment, goes on to the same end.

`conclave launch -n 2 … 4 pretrain` on a tiny config over Gloo. One rank, drawn at random, is killed (SIGKILL) at a random moment or at a
named point of a save; the launcher must end the others; `latest` must name a whole checkpoint; the same command must go on from it and
end as a run that nobody disturbed: every byte of the latest and of the best checkpoint, the losses, the summary.

    kill_ranks.py [--trials N] [--seed S]

Half of the trials are at named points. Exit status 0 or 1.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from kill_resume import checkpoints, end_of, fault_points
from tiny_run import ROOT, TinyRun

sys.path.append(str(ROOT / "tests/dist"))

from processes import LIMIT, Started, launch  # noqa: E402

LAYOUTS = {2: {"parallel__ep": 2}, 3: {}, 4: {"parallel__dp_replicate": 2, "parallel__ep": 2}}
SETTINGS = {"steps": 20, "checkpoint__every": 2, "validation__every": 0, "batch__rows": 12, "batch__micro_rows": 6,
            "schedule__warmup_steps": 4, "threads": 1}
SAVES = 10
OF_ALL_RANKS = ("save/after_write", "save/after_fsync")  # the others are rank 0's
WHERE_A_FOLDER_IS_REPLACED = ("save/between_renames", "save/after_old_removed")  # kill_resume.py looks at these


def damage(folder):
    """What is wrong with a checkpoint, read by others' eyes."""
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as e:
        return f"manifest.json: {e}"
    for name, entry in files.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != entry["bytes"]:
            return f"{name}: expected {entry['bytes']} bytes"
        if name.endswith(".safetensors"):
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            end = max((t["data_offsets"][1] for k, t in header.items() if k != "__metadata__"), default=0)
            if path.stat().st_size - end < 8:
                return f"{name}: its tensors do not fit"
    return ""


class Trial:
    def __init__(self, folder, draw):
        self.folder, self.draw = folder, draw
        self.tiny = TinyRun(folder / "shared")
        self.calm, self.seconds = {}, {}
        self.count = self.bad = 0
        self.ends = []  # seconds from a kill to the end of the launcher

    def start(self, kind, output, **variables):
        ranks, dtype, layout = kind
        settings = SETTINGS | LAYOUTS[ranks] | {"dtype": dtype, "checkpoint__layout": layout}
        command = self.tiny.command(output, **settings)
        return Started(launch(ranks, *command[1:], logs=self.folder / "logs"), OMP_WAIT_POLICY="passive", **variables)

    def undisturbed(self, kind):
        if kind not in self.calm:
            output = self.folder / "calm"
            ended = self.start(kind, output).end()
            if ended.status != 0:
                raise RuntimeError(f"the undisturbed run: exit status {ended.status}: {ended.output[-2000:]}")
            self.calm[kind], self.seconds[kind] = end_of(output), ended.seconds
            print(f"undisturbed, {text_of(kind)}: {ended.seconds:.1f} s, {checkpoints(output)}", flush=True)
            shutil.rmtree(output)
        return self.calm[kind]

    def at_random(self, kind):
        """Again if the run was over too soon."""
        self.undisturbed(kind)
        while True:
            output = self.folder / "killed"
            run, rank = self.start(kind, output), self.draw.randrange(kind[0])
            moment = self.draw.uniform(0.1, 1) * self.seconds[kind]
            time.sleep(moment)
            pid = run.ranks().get(rank)
            begun = time.monotonic()
            try:
                if pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pid = None
            ended = run.end()
            if pid and ended.status != 0:
                return self.finish(kind, f"rank {rank} killed after {moment:.2f} s", output, rank, ended, time.monotonic() - begun)
            self.seconds[kind] = min(self.seconds[kind], ended.seconds)
            shutil.rmtree(output, ignore_errors=True)

    def at_point(self, kind, name):
        self.undisturbed(kind)
        output, rank = self.folder / "killed", self.draw.randrange(kind[0]) if name in OF_ALL_RANKS else 0
        at = f"{name}:{self.draw.randint(1, 5 if rank == 0 else SAVES)}"
        ended = self.start(kind, output, CONCLAVE_KILL_AT=at, CONCLAVE_FAULT_RANK=rank).end()
        self.finish(kind, f"rank {rank} killed at {at}", output, rank, ended, None)

    def finish(self, kind, name, output, rank, ended, took):
        want = self.undisturbed(kind)
        wrong = [] if ended.status == 1 else [f"the launcher: expected exit status 1, got {ended.status}"]
        if f"rank {rank} on " not in ended.output or "was killed by signal 9" not in ended.output:
            wrong.append(f"the launcher does not name the rank: {ended.output[-300:]}")
        wrong += [f"left running: {command}" for command in ended.left.values()]
        if took is not None:
            self.ends.append(took)
            wrong += [f"the others ended after {took:.1f} s"] if took > LIMIT else []
        latest, at = output / "latest", "no checkpoint"
        latest_there = latest.is_symlink()
        if latest_there:
            at = os.readlink(latest)
            wrong += [f"latest: {at}: {what}" for what in [damage(latest)] if what]
        again = self.start(kind, output).end()
        if again.status != 0:
            wrong.append(f"going on: exit status {again.status}: {again.output[-600:]}")
        else:
            if latest_there and f"{at}, step" not in again.output and "nothing to do" not in again.output:
                wrong.append("it did not go on from latest")
            got = end_of(output)
            wrong += [f"{k} differs from the undisturbed run's" for k in sorted(want.keys() | got.keys()) if want.get(k) != got.get(k)]
            wrong += [f"left over: {p.name}" for p in output.glob(".*.*")]
        self.count += 1
        self.bad += bool(wrong)
        after = "" if took is None else f", the others ended after {took:.1f} s"
        print(f"{'FAIL' if wrong else 'ok  '} {name}, {text_of(kind)}: had {at}{after}", flush=True)
        for w in wrong[:6]:
            print(f"       {w}")
        shutil.rmtree(output, ignore_errors=True)


def text_of(kind):
    return "{} ranks, {}, {}".format(*kind)


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--trials", type=int, default=50, metavar="N")
    parse.add_argument("--seed", type=int, default=1)
    args = parse.parse_args()
    points = [p for p in fault_points() if p not in WHERE_A_FOLDER_IS_REPLACED]
    points += list(OF_ALL_RANKS) * len(points)  # after each point once: where all ranks are at work
    kinds = [(2, "fp32", "shared"), (3, "fp32", "per_rank"), (4, "fp32", "shared"), (2, "bf16", "per_rank"), (3, "bf16", "shared")]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(pathlib.Path(folder), random.Random(args.seed))
        for i in range(args.trials):
            kind = kinds[i // 2 % len(kinds)]
            if i % 2 == 0:
                trial.at_random(kind)
            else:
                trial.at_point(kind, points[i // 2])
    ends = f"; the others ended at most {max(trial.ends):.1f} s after a kill" if trial.ends else ""
    print(f"{trial.count - trial.bad} of {trial.count} ended like the undisturbed run{ends}; {time.monotonic() - begun:.0f} s")
    return 1 if trial.bad else 0


if __name__ == "__main__":
    sys.exit(main())
