"""A text of made-up words, a tokenizer for it, and the tiny run of kill.yaml on them. For tests that need a trained checkpoint."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "parity"))

from program import binary, conclave  # noqa: E402


class TinyRun:
    """What all runs in `folder` share: text, tokenizer and token cache are made once."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        text, tokenizer = self.folder / "text", self.folder / "tokenizer"
        write_text(text)
        made = conclave("train-tokenizer", ROOT / "tests/bars/kill_tokenizer.yaml", *sets(output=tokenizer, text__paths=[str(text)]))
        if made.returncode:
            raise RuntimeError(f"conclave train-tokenizer: exit status {made.returncode}: {made.stderr.strip()}")
        self.data = sets(data__text__paths=[str(text)], data__tokenizer=tokenizer, data__cache=self.folder / "cache")

    def command(self, output, **more):
        return [binary(), "pretrain", str(ROOT / "tests/bars/kill.yaml"), *self.data, *sets(output=output, **more)]

    def run(self, output, kill_at=None, after=None, at_step=None, how=signal.SIGKILL, simple_renames=False, **more):
        """Runs until its end, until the fault point `kill_at`, or for `after` seconds or until step `at_step` is in metrics.jsonl,
        and then sends `how`. (status, stderr)
        simple_renames: as on a file system that cannot exchange two names."""
        env = os.environ | {"OMP_WAIT_POLICY": "passive"}  # threads that spin on a busy machine take minutes for nothing
        env |= {"CONCLAVE_KILL_AT": kill_at} if kill_at else {}
        env |= {"LD_PRELOAD": str(self.no_exchange())} if simple_renames else {}
        with open(self.folder / "stderr.txt", "w+") as said:
            process = subprocess.Popen(self.command(output, **more), stdout=subprocess.DEVNULL, stderr=said, env=env, cwd=ROOT)
            if after is not None:
                try:
                    process.wait(after)
                except subprocess.TimeoutExpired:
                    process.send_signal(how)
            if at_step is not None:
                while process.poll() is None and steps_in(output) < at_step:
                    time.sleep(0.002)
                process.send_signal(how)
            status = process.wait(300)
            said.seek(0)
            return status, said.read().strip()

    def no_exchange(self):
        """A library whose renameat2 refuses, as NFS does."""
        library = self.folder / "no_exchange.so"
        if not library.exists():
            code = b"#include <errno.h>\nint renameat2(int a, const char* b, int c, const char* d, unsigned e) { errno = EINVAL; return -1; }\n"
            compiler = os.environ.get("CC", "gcc")
            subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=code, check=True)
        return library

    def seconds(self, output, **more):
        begin = time.monotonic()
        status, said = self.run(output, **more)
        if status:
            raise RuntimeError(f"the undisturbed run: exit status {status}: {said}")
        return time.monotonic() - begin


def steps_in(output):
    """How many steps metrics.jsonl of a run has."""
    path = pathlib.Path(output) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sets(**keys):
    """a__b=1 → --set a.b=1"""
    return [x for k, v in keys.items() for x in ("--set", f"{k.replace('__', '.')}={json.dumps(str(v) if isinstance(v, pathlib.Path) else v)}")]


def write_text(folder, documents=120, words=90):
    r = random.Random(7)
    lexicon = ["".join(r.choice("bdfklmnprst") + r.choice("aeiou") for _ in range(r.randint(1, 3))) for _ in range(150)]
    folder.mkdir(parents=True)
    for i in range(documents):
        order = [lexicon[min(int(r.expovariate(0.03)), 149)] for _ in range(words)]
        (folder / f"{i:03}.txt").write_text(" ".join(order) + ".\n")
