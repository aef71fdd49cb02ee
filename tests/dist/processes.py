"""Starts ranks as a user does and sees that none is left: what the tests of tests/dist share."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONCLAVE = os.environ.get("CONCLAVE_BINARY", str(ROOT / "build/release/conclave"))
RANK_CASES = os.environ.get("CONCLAVE_RANK_CASES", str(ROOT / "build/release/tests/rank_cases"))
LIMIT = 60  # seconds in which a fault must have ended all ranks


def has_gpu():
    """Says so where there is none, for a test that leaves with 77 then."""
    try:
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        gpus = ""
    if not gpus:
        print("skipped: there is no GPU")
    return bool(gpus)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(ranks, *arguments, binary=None, logs=None, timeout=None):
    command = [CONCLAVE, "launch", "-n", str(ranks)]
    command += ["--logs", str(logs)] if logs else []
    command += ["--timeout", str(timeout)] if timeout else []
    command += ["--binary", binary] if binary else []
    return [*command, *map(str, arguments)]


def torchrun(ranks, *command):
    """None where torchrun cannot be had."""
    probe = subprocess.run([sys.executable, "-c", "import torch.distributed.run"], capture_output=True)
    if probe.returncode:
        return None
    return [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", str(ranks),
            "--master-port", str(free_port()), *map(str, command)]


def mpirun(ranks, *command):
    """None where mpirun is not installed."""
    program = shutil.which("mpirun")
    if not program:
        return None
    return [program, "--allow-run-as-root", "--oversubscribe", "-n", str(ranks), *map(str, command)]


class Ended:
    def __init__(self, status, output, seconds, left):
        self.status, self.output, self.seconds, self.left = status, output, seconds, left


def ranks_of(tag):
    """The processes that have the tag in their environment: {pid: command}."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if tag.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            pass
    return found


class Started:
    """A launcher and its ranks, marked by a variable in their environment."""

    def __init__(self, command, **variables):
        self.tag = "CONCLAVE_TEST_TAG=" + uuid.uuid4().hex
        name, value = self.tag.split("=")
        environment = os.environ | {"OMP_NUM_THREADS": "1", name: value} | {k: str(v) for k, v in variables.items()}
        self.output = tempfile.TemporaryFile("w+", errors="replace")
        self.begun = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, stdout=self.output, stderr=subprocess.STDOUT, cwd=ROOT)

    def ranks(self):
        """{rank: pid} of those that run now."""
        found = {}
        for pid in ranks_of(self.tag):
            try:
                variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            rank = [v[5:] for v in variables if v.startswith(b"RANK=")]
            if rank and pid != self.process.pid:
                found[int(rank[0])] = pid
        return found

    def said(self):
        self.output.seek(0)
        return self.output.read()

    def wait_for(self, text, seconds=LIMIT):
        end = time.monotonic() + seconds
        while text not in self.said():
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"waited in vain for {text!r}; what came:\n{self.said()}")
            time.sleep(0.1)

    def end(self, seconds=240):
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        took = time.monotonic() - self.begun
        end = time.monotonic() + 5  # a launcher other than ours may be a little late
        while (left := ranks_of(self.tag)) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return Ended(status, self.said(), took, left)


def srun_by_hand(ranks, command, **variables):
    """What srun sets, process by process, for SLURM itself cannot be had here: what became of each rank."""
    job = free_port()  # any number: the store's port is made from it
    started = [
        Started(command, SLURM_PROCID=r, SLURM_NTASKS=ranks, SLURM_LOCALID=r, SLURM_STEP_ID=0, SLURM_JOB_ID=job,
                SLURM_STEP_NODELIST="localhost", SLURM_STEP_TASKS_PER_NODE=ranks, **variables)
        for r in range(ranks)
    ]
    return [s.end() for s in started]


def together(ended):
    """Of several processes one: a status other than 0 if there is one, all that they said."""
    worst = max(ended, key=lambda e: e.status != 0)
    left = {pid: command for e in ended for pid, command in e.left.items()}
    return Ended(worst.status, "".join(e.output for e in ended), max(e.seconds for e in ended), left)


class Tally:
    """Counts what was expected and what came, and prints a line for each."""

    def __init__(self):
        self.bad = self.count = 0

    def check(self, name, ended, status, *texts, within=None):
        """`status`: the expected one, or a set of them."""
        allowed = status if isinstance(status, set) else {status}
        wrong = [] if ended.status in allowed else [f"expected exit status {status}, got {ended.status}"]
        wrong += [f"expected in the output: {t}" for t in texts if t not in ended.output]
        wrong += [f"left running: {pid} {command}" for pid, command in ended.left.items()]
        if within and ended.seconds > within:
            wrong.append(f"expected an end within {within} s, took {ended.seconds:.1f}")
        self.count += 1
        self.bad += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} {name}: status {ended.status}, {ended.seconds:.1f} s", flush=True)
        for w in wrong:
            print(f"       {w}")
        if wrong:
            print("       what came:\n" + "\n".join("         " + line for line in ended.output.splitlines()[-40:]))

    def finish(self):
        print(f"{self.count - self.bad} of {self.count} as expected")
        return 1 if self.bad else 0
