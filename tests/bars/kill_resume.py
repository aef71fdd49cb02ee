"""Bar 4 of issue #3: a run killed at any moment goes on to the same end.

`conclave pretrain` on a tiny config is killed (SIGKILL) at random moments and at every named point of a save, started again with
the same command until it ends, and compared with a run that nobody disturbed: every byte of the final and of the best
checkpoint, the losses in metrics.jsonl, the summary. Also stopped by SIGINT and SIGTERM. Resumed with another number of threads.

    kill_resume.py [--random N] [--seed S] [--only random|points|signals] [--quick]

Exit status 0 or 1.
"""

import argparse
import hashlib
import json
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile

from tiny_run import ROOT, TinyRun

UNSTEADY = {"seconds", "tokens_per_second", "slowest_rank", "lag"}  # of a line of metrics.jsonl
SAVES = 10  # in a run of kill.yaml
EVERY_SAVE = ("save/after_rename", "save/before_best", "save/after_best", "save/before_latest", "save/after_latest")
SUMMARY = ("steps", "finished", "tokens", "skipped_steps", "final_loss", "final_validation_loss", "best_validation_loss")


def fault_points():
    """The names in kSaveFaultPoints of src/checkpoint/save.h."""
    block = re.search(r"kSaveFaultPoints\s*=\s*\{(.*?)\}", (ROOT / "src/checkpoint/save.h").read_text(), re.S)
    return re.findall(r'"([^"]+)"', block.group(1))


def end_of(output):
    """What must not depend on what happened on the way: {name: content}."""
    found = {}
    for link in ("latest", "best"):
        folder = output / link
        if folder.exists():
            found[link] = folder.resolve().name
            found |= {f"{link}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{k: v for k, v in line.items() if k not in UNSTEADY} for line in lines]
    path = output / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    return found | {f"summary.{k}": summary.get(k) for k in SUMMARY}


def checkpoints(output):
    return sorted(p.name for p in output.glob("step-*")) if output.exists() else []


class Trial:
    def __init__(self, tiny, folder, quick):
        self.tiny, self.folder, self.quick, self.bad, self.count = tiny, folder, quick, 0, 0
        self.calm, self.seconds = {}, {}

    def undisturbed(self, dtype):
        if dtype not in self.calm:
            output = self.folder / f"calm-{dtype}"
            self.seconds[dtype] = self.tiny.seconds(output, dtype=dtype)
            self.calm[dtype] = end_of(output), checkpoints(output)
            print(f"undisturbed, {dtype}: {self.seconds[dtype]:.1f} s, {checkpoints(output)}", flush=True)
        return self.calm[dtype]

    def finish(self, name, output, dtype, stage, expected, said=""):
        """Starts the killed run again until it ends, and compares. `stage`: what the killed process came to."""
        want, kept = self.undisturbed(dtype)
        wrong = [] if stage == expected else [f"expected to end by {expected}, got {stage}: {said[-200:]}"]
        at = checkpoints(output)
        status, said = self.tiny.run(output, dtype=dtype, threads=2)
        if status:
            wrong.append(f"resuming: exit status {status}: {said[-300:]}")
        else:
            got = end_of(output)
            wrong += [f"{k} differs from the undisturbed run's" for k in sorted(want.keys() | got.keys()) if want.get(k) != got.get(k)]
        self.count += 1
        self.bad += bool(wrong)
        hidden = [p.name for p in output.glob(".*.*")]
        more = sorted(set(checkpoints(output)) - set(kept)) + [h for h in hidden if "tmp" in h or "old" in h]
        note = f"  (left over: {', '.join(more)})" if more else ""
        print(f"{'FAIL' if wrong else 'ok  '} {name}, {dtype}: had {at[-1] if at else 'no checkpoint'}{note}", flush=True)
        for w in wrong[:6]:
            print(f"       {w}")
        shutil.rmtree(output, ignore_errors=True)

    def random_moments(self, count, seed):
        r = random.Random(seed)
        for i in range(count):
            dtype = "bf16" if i % 4 == 3 else "fp32"
            self.undisturbed(dtype)
            output, moment = self.folder / "killed", r.uniform(0.2, 1) * self.seconds[dtype]
            stage, said = self.tiny.run(output, after=moment, dtype=dtype)
            if i % 3 == 2:  # the second attempt dies too
                self.tiny.run(output, after=r.uniform(0.2, 1) * self.seconds[dtype], dtype=dtype)
            expected = stage if stage == 0 else -signal.SIGKILL  # it may have ended just before
            self.finish(f"killed after {moment:.2f} s{' and again' if i % 3 == 2 else ''}", output, dtype, stage, expected, said)

    def points(self):
        """Each point in an early save and in a later one; those around the rename and `latest` in the last save as well."""
        self.undisturbed("fp32")
        for name in fault_points():
            for passage in (2,) if self.quick else (1, 3, SAVES) if name in EVERY_SAVE else (1, 3):
                output, at = self.folder / "killed", f"{name}:{passage}"
                stage, said = self.tiny.run(output, kill_at=at)
                if stage != 0:
                    self.finish(at, output, "fp32", stage, -signal.SIGKILL, said)
                    continue
                # Passed only where a folder is replaced: leave one that `latest` does not know yet. If even then only where
                # the file system cannot exchange two names, be such a file system.
                for simple in (False, True):
                    shutil.rmtree(output)
                    self.tiny.run(output, kill_at="save/before_latest:3")
                    stage, said = self.tiny.run(output, kill_at=name, simple_renames=simple)
                    if stage != 0:
                        break
                self.finish(f"{name}, a folder replaced{' by two renames' * simple}", output, "fp32", stage, -signal.SIGKILL, said)
                break

    def signals(self):
        self.undisturbed("fp32")
        for how in (signal.SIGINT, signal.SIGTERM):
            output = self.folder / "stopped"
            stage, said = self.tiny.run(output, at_step=20, how=how)
            self.finish(f"stopped by {how.name}", output, "fp32", stage, 75, said)


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--random", type=int, default=20, metavar="N")
    parse.add_argument("--seed", type=int, default=1)
    parse.add_argument("--only", choices=["random", "points", "signals"])
    parse.add_argument("--quick", action="store_true", help="each point once")
    args = parse.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(TinyRun(pathlib.Path(folder) / "shared"), pathlib.Path(folder), args.quick)
        if args.only in (None, "random"):
            trial.random_moments(args.random, args.seed)
        if args.only in (None, "points"):
            trial.points()
        if args.only in (None, "signals"):
            trial.signals()
    print(f"{trial.count - trial.bad} of {trial.count} ended like the undisturbed run")
    return 1 if trial.bad else 0


if __name__ == "__main__":
    sys.exit(main())
