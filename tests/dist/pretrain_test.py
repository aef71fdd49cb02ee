"""`conclave pretrain` on several processes over Gloo against one: the losses of twelve steps, the gradients of the first (the
optimizer's first moments hold them), each tensor. Also: stopped by Ctrl-C, gone on with another number of ranks, killed, with disks that
are full, slow or hang, with one file a rank, with NaN.

    pretrain_test.py [--ranks N...] [--launchers launch torchrun mpirun srun] [--only PART]

CONCLAVE_TEST_DEVICE=cuda: on GPUs; parity is the CPU's alone. Exit status 0 or 1; a launcher that is not there is named.
"""

import argparse
import json
import os
import pathlib
import signal
import sys
import tempfile
import time

from processes import CONCLAVE, LIMIT, ROOT, Started, Tally, launch, mpirun, srun_by_hand, together, torchrun

sys.path.append(str(ROOT / "tests/bars"))

from kill_resume import end_of  # noqa: E402
from tiny_run import TinyRun, steps_in  # noqa: E402

try:
    from safetensors.torch import load_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TOLERANCE = 1e-5  # of fp32 losses and gradients, relative to a tensor's largest
SETTINGS = {"steps": 12, "schedule__warmup_steps": 0, "validation__every": 6, "checkpoint__every": 0, "threads": 1}
if os.environ.get("CONCLAVE_TEST_DEVICE") == "cuda":  # over NCCL; with CONCLAVE_SHARE_GPU=1 on one GPU
    SETTINGS |= {"device": "cuda", "dtype": "bf16", "deterministic": True}
PARTS = ["parity", "stop", "kill", "full_disk", "background", "per_rank", "nan", "restart"]
LAYOUTS = {  # of so many ranks
    2: [{}, {"dp_replicate": 2}, {"ep": 1}, {"capacity": 1}],
    4: [{}, {"dp_replicate": 2, "ep": 2}, {"ep": 2, "ep_replicate": 2, "dispatcher": "all_gather", "weights": "release"}, {"capacity": 1}],
    8: [{"dp_replicate": 2}, {"ep": 4, "capacity": 1.25}],
}


class Trial:
    def __init__(self, folder, tally):
        self.folder, self.tally = pathlib.Path(folder), tally
        self.tiny = TinyRun(self.folder / "shared")

    def command(self, output, layout, **settings):
        layout = {f"parallel__{key}": value for key, value in layout.items()}
        return self.tiny.command(self.folder / output, **(SETTINGS | settings | layout))

    def run(self, launcher, ranks, output, layout, **settings):
        """What came of it, or None without that launcher."""
        command = self.command(output, layout, **settings)
        if launcher == "srun":
            return together(srun_by_hand(ranks, command))
        made = {"launch": lambda: launch(ranks, *command[1:], logs=self.folder / (output + ".logs")),
                "torchrun": lambda: torchrun(ranks, *command), "mpirun": lambda: mpirun(ranks, *command)}[launcher]()
        if made is None:
            print(f"skipped: {launcher} is not installed")
            return None
        return Started(made).end()

    def lines(self, output):
        return [json.loads(line) for line in (self.folder / output / "metrics.jsonl").read_text().splitlines()]

    def gradients(self, output):
        return {k: v for k, v in load_file(self.folder / output / "latest/optimizer.safetensors").items() if k.endswith(".m")}

    def one_rank(self):
        for output, steps in ("one", 12), ("one-step", 1):
            ended = Started(self.command(output, {}, steps=steps)).end()
            self.tally.check(f"one rank, {steps} steps", ended, 0)

    def compare(self, what, ended, output, first, says):
        worst = {"loss": 0.0, "gradient": 0.0}
        if ended.status == 0:
            for got, want in zip(self.lines(output), self.lines("one"), strict=True):
                for key in ("loss", "grad_norm", "validation_loss"):
                    if key in want:
                        worst["loss"] = max(worst["loss"], abs(got[key] - want[key]) / abs(want[key]))
            got, want = self.gradients(first), self.gradients("one-step")
            if got.keys() != want.keys():
                worst["gradient"] = float("inf")
            for name in want.keys() & got.keys():
                scale = want[name].abs().max().item() or 1.0
                worst["gradient"] = max(worst["gradient"], (got[name] - want[name]).abs().max().item() / scale)
            if max(worst.values()) > TOLERANCE:
                ended.status = f"0, but off by {worst}"
        self.tally.check(f"{what}: losses within {worst['loss']:.1e}, gradients within {worst['gradient']:.1e}", ended, 0, says)

    def parity(self, sizes, launchers):
        self.one_rank()
        for ranks in sizes:
            for i, layout in enumerate(LAYOUTS[ranks]):
                for launcher in launchers if i == 0 else launchers[:1]:
                    output = f"{launcher}-{ranks}-{i}"
                    ended = self.run(launcher, ranks, output, layout)
                    if ended is None:
                        continue
                    first = self.run(launcher, ranks, output + "-step", layout, steps=1) if ended.status == 0 else ended
                    if first.status:
                        ended = first
                    self.compare(f"{launcher}, {ranks} ranks, {layout or 'as it comes'}", ended, output, output + "-step", f"{ranks} ranks, started by")

    def start(self, ranks, output, variables=None, timeout=15, **settings):
        command = launch(ranks, *self.command(output, {}, **settings)[1:], logs=self.folder / (output + ".logs"), timeout=timeout)
        return Started(command, **(variables or {}))

    def wait_for_steps(self, run, output, steps):
        end = time.monotonic() + 120
        while steps_in(self.folder / output) < steps and run.process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)

    def stop(self):
        """Ctrl-C saves; two ranks go on with what four saved, to the same end."""
        calm = Started(self.command("calm", {}, steps=40)).end()
        self.tally.check("one rank, 40 steps", calm, 0)
        run = self.start(4, "stopped", steps=40)
        self.wait_for_steps(run, "stopped", 10)
        run.process.send_signal(signal.SIGINT)
        self.tally.check("four ranks, Ctrl-C", run.end(), 75, within=120)
        ended = self.start(2, "stopped", steps=40).end()
        if ended.status == 0:
            got, want = self.lines("stopped"), self.lines("calm")
            worst = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(got, want, strict=True))
            if worst > 1e-4:
                ended.status = f"0, but a loss is off by {worst:.1e}"
        self.tally.check("two ranks go on to the end", ended, 0)

    def kill(self):
        """One rank is killed in mid run: all end, what was saved is whole, and the run goes on from it."""
        run = self.start(4, "killed", steps=40, checkpoint__every=5)
        self.wait_for_steps(run, "killed", 12)
        begun = time.monotonic()
        os.kill(run.ranks()[2], signal.SIGKILL)
        ended = run.end()
        ended.seconds = time.monotonic() - begun
        self.tally.check("one of four ranks is killed", ended, 1, "rank 2 on ", "was killed by signal 9", "its last operation: ", within=LIMIT)
        self.tally.check("four ranks go on", self.start(4, "killed", steps=40, checkpoint__every=5).end(), 0, "resuming from ")

    def full_disk(self):
        """One rank may write no file over 64 KiB: no checkpoint appears, the one before stays, all ranks end."""
        first = self.start(2, "full", steps=5, checkpoint__every=5).end()
        self.tally.check("two ranks save", first, 0)
        script = self.folder / "limited.sh"
        script.write_text(f'#!/bin/bash\n[ "$RANK" = 1 ] && trap "" XFSZ && ulimit -f 64\nexec "{CONCLAVE}" "$@"\n')
        script.chmod(0o755)
        command = launch(2, *self.command("full", {}, steps=10, checkpoint__every=5)[1:], binary=str(script),
                         logs=self.folder / "full.logs", timeout=15)
        ended = Started(command).end()
        there = sorted(p.name for p in (self.folder / "full").glob("*step-*"))
        if there != ["step-00000005"]:
            ended.status = f"{ended.status}, and the folder holds {there}"
        self.tally.check("one rank's disk is full", ended, 1, "rank 1: ", "File too large", within=LIMIT)
        self.tally.check("two ranks go on", self.start(2, "full", steps=10, checkpoint__every=5).end(), 0, "resuming from ")

    def background(self):
        """Steps go on while a thread of each rank writes; the run ends as one whose disk is quick. A thread that hangs is found."""
        settings = {"steps": 40, "checkpoint__every": 10}
        self.tally.check("two ranks, a quick disk", self.start(2, "quick", **settings).end(), 0)
        run = self.start(2, "slow", {"CONCLAVE_DELAY_AT": "save/after_write:3000", "CONCLAVE_FAULT_RANK": 1}, **settings)
        during, output = 0, self.folder / "slow"
        while run.process.poll() is None:
            before = steps_in(output)
            if list(output.glob(".step-00000010.tmp-*")):  # it was there when the steps were counted, or came since
                during = max(during, before)
            time.sleep(0.01)
        ended = run.end()
        if ended.status == 0 and end_of(output) != end_of(self.folder / "quick"):
            ended.status = "0, but it did not end as the quick one"
        if ended.status == 0 and during < 15:
            ended.status = f"0, but only {during} steps were done while step 10 was saved"
        self.tally.check(f"two ranks, a slow disk: {during} steps were done before step 10 was saved", ended, 0)
        ended = self.start(2, "hangs", {"CONCLAVE_HANG_AT": "save/after_write", "CONCLAVE_FAULT_RANK": 1}, timeout=2, **settings).end()
        there = sorted(p.name for p in (self.folder / "hangs").glob("step-*"))
        if there:
            ended.status = f"{ended.status}, and the folder holds {there}"
        self.tally.check("one rank's disk hangs", ended, 1, "waits in `control #", "for rank 1;", within=LIMIT)

    def per_rank(self):
        """One file a rank: killed, gone on with from these files, merged: the bytes of the shared form."""
        settings = {"steps": 20, "checkpoint__every": 5}
        self.tally.check("four ranks, shared files", self.start(4, "shared", **settings, checkpoint__layout="shared").end(), 0)
        run = self.start(4, "ranks", **settings, checkpoint__layout="per_rank")
        self.wait_for_steps(run, "ranks", 7)
        os.kill(run.ranks()[1], signal.SIGKILL)
        self.tally.check("a file a rank, one is killed", run.end(), 1, "was killed by signal 9", within=LIMIT)
        ended = self.start(4, "ranks", **settings, checkpoint__layout="per_rank").end()
        self.tally.check("they go on", ended, 0)
        latest = self.folder / "ranks/latest"
        ended = Started([CONCLAVE, "generate", "--model", str(latest), "--prompt", "ba"]).end()
        self.tally.check("a model in rank files", ended, 1, "conclave merge")
        ended = Started([CONCLAVE, "merge", str(latest), "--output", str(self.folder)]).end()
        self.tally.check("merged over what is no checkpoint", ended, 1, "found other files")
        ended = Started([CONCLAVE, "merge", str(latest)]).end()
        if ended.status == 0:
            got, want = end_of(self.folder / "ranks"), end_of(self.folder / "shared")
            differ = sorted(k for k in got.keys() | want.keys() if k.startswith("latest/") and got.get(k) != want.get(k))
            if differ:
                ended.status = f"0, but {', '.join(differ)} differ"
        self.tally.check("merged they are the shared files", ended, 0, "is a model folder now")
        self.tally.check("twice merged", Started([CONCLAVE, "merge", str(latest)]).end(), 1, "found no rank_files.json")
        ended = Started(self.command("alone", {}, **settings, checkpoint__layout="per_rank")).end()
        self.tally.check("one rank has no use for it", ended, 2, "checkpoint.layout")

    def nan(self):
        """A loss that is not a number on one rank: the step is skipped on all; too many in a row end the run, which can go on."""
        settings = {"steps": 12, "checkpoint__every": 2, "max_skipped": 3}
        ended = self.start(4, "nan", {"CONCLAVE_NAN_AT": "train.accumulate:5", "CONCLAVE_FAULT_RANK": 1}, **settings).end()
        if ended.status == 0:
            skipped = [line["step"] for line in self.lines("nan") if line["skipped"]]
            count = json.loads((self.folder / "nan/summary.json").read_text())["skipped_steps"]
            if skipped != [5] or count != 1:
                ended.status = f"0, but steps {skipped} were skipped, {count} in the summary"
        self.tally.check("NaN on one of four ranks", ended, 0, "step 5: ", "on rank 1; the step is skipped (1 so far)")
        ended = self.start(4, "nans", {"CONCLAVE_NAN_FROM": "train.accumulate:5", "CONCLAVE_FAULT_RANK": 1}, **settings).end()
        self.tally.check("NaN in each step from the fifth on", ended, 1, "step 8: the loss or a gradient is not finite, on rank 1",
                         "max_skipped allows 3 in a row", within=LIMIT)
        self.tally.check("four ranks go on without it", self.start(4, "nans", **settings).end(), 0, "resuming from ")

    def restart(self):
        """Under torchrun with a restart the run goes on from its last checkpoint, to the bytes of a run that nobody disturbed."""
        settings = {"steps": 40, "checkpoint__every": 5}
        command = torchrun(2, *self.command("restarted", {}, **settings))
        if command is None:
            print("skipped: torchrun is not installed")
            return
        self.tally.check("two ranks, undisturbed", self.start(2, "undisturbed", **settings).end(), 0)
        at = command.index("--no-python")
        run = Started([*command[:at], "--max-restarts", "1", *command[at:]])
        self.wait_for_steps(run, "restarted", 12)
        os.kill(run.ranks()[1], signal.SIGKILL)
        ended = run.end()
        if ended.status == 0:
            got, want = end_of(self.folder / "restarted"), end_of(self.folder / "undisturbed")
            differ = sorted(k for k in got.keys() | want.keys() if got.get(k) != want.get(k))
            if differ:
                ended.status = f"0, but {', '.join(differ)} differ"
        self.tally.check("torchrun starts two ranks again, one of which was killed: the same bytes", ended, 0, "resuming from ")


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--ranks", type=int, nargs="+", default=[4], choices=sorted(LAYOUTS))
    parse.add_argument("--launchers", nargs="+", default=["launch"], choices=["launch", "torchrun", "mpirun", "srun"])
    parse.add_argument("--only", choices=PARTS)
    args = parse.parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(folder, tally)
        if args.only in (None, "parity"):
            trial.parity(args.ranks, args.launchers)
        for part in PARTS[1:]:
            if args.only in (None, part):
                getattr(trial, part)()
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())
