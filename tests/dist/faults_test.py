"""Ranks that die, hang, stand still, throw, differ or send a wrong size: one clear message that names the rank, an exit status
other than 0, no process left, all within 60 s. Started by `conclave launch` (rank_cases.cpp). Exit status 0 or 1.

    faults_test.py [CASE...]
"""

import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

from processes import CONCLAVE, LIMIT, RANK_CASES, Started, Tally, launch, mpirun, srun_by_hand, torchrun

TIMEOUT = 8  # seconds that a call may take


def start(folder, ranks, *case, **variables):
    return Started(launch(ranks, *case, binary=RANK_CASES, logs=folder, timeout=TIMEOUT), **variables)


def log_of(folder, rank):
    return (pathlib.Path(folder) / f"rank-{rank}.log").read_text()


def dies(tally, folder):
    ended = start(folder, 3, "calls", 30, CONCLAVE_KILL_AT="comm.call:40", CONCLAVE_FAULT_RANK=2).end()
    tally.check("a rank is killed", ended, 1, "rank 2 on ", "was killed by signal 9", "its last operation: world #39 all_reduce",
                "rank 2 (", "has left: it was killed by signal 9", within=LIMIT)
    ended.output = log_of(folder, 1)
    tally.check("… and another rank's log", ended, 1, "the last ", "world #40 all_reduce", "for rank 2")


def first_dies(tally, folder):
    ended = start(folder, 3, "calls", 30, CONCLAVE_KILL_AT="comm.call:40", CONCLAVE_FAULT_RANK=0).end()
    tally.check("rank 0 is killed", ended, 1, "rank 0 on ", "was killed by signal 9", within=LIMIT)


def dies_at_start(tally, folder):
    """Before the ranks have met there is no call in which the others would notice."""
    ended = start(folder, 3, "calls", 30, CONCLAVE_KILL_AT="comm.meet", CONCLAVE_FAULT_RANK=1).end()
    if "did not end by themselves" in ended.output:
        ended.status = f"{ended.status}, and the others had to be killed"
    tally.check("a rank is killed at the start", ended, 1, "rank 1 on ", "was killed by signal 9", within=LIMIT)


def dies_without_launcher(tally, folder):
    """Nobody ends the others: they do. Rank 0 has the store, so without it they can only say that it is gone."""
    for dead, texts in (1, ["; rank 1 (", "does not answer any more"]), (0, ["does not answer any more"]):
        ended = srun_by_hand(3, [RANK_CASES, "calls", "30"], CONCLAVE_TIMEOUT=TIMEOUT, CONCLAVE_KILL_AT="comm.call:40", CONCLAVE_FAULT_RANK=dead)
        for rank, one in enumerate(ended):
            if rank == dead:
                tally.check(f"rank {dead} is killed under no launcher", one, -signal.SIGKILL)
            else:
                tally.check(f"… and rank {rank} ends", one, 1, *texts, within=LIMIT)


def dies_under_others(tally, folder):
    """Launchers other than ours end the others themselves; none is left."""
    for name, command in ("torchrun", torchrun(3, RANK_CASES, "calls", "30")), ("mpirun", mpirun(3, RANK_CASES, "calls", "30")):
        if not command:
            print(f"skipped: {name} cannot be found")
            continue
        ended = Started(command, CONCLAVE_KILL_AT="comm.call:40", CONCLAVE_FAULT_RANK=1).end()
        if ended.status not in (0, None):
            ended.status = "not 0"
        tally.check(f"a rank is killed under {name}", ended, "not 0", within=LIMIT)


def hangs(tally, folder):
    ended = start(folder, 3, "calls", 60, CONCLAVE_HANG_AT="comm.call:40", CONCLAVE_FAULT_RANK=1).end()
    tally.check("a rank hangs", ended, 1, "waits in `world #40 all_reduce", "for rank 1;", "runs, but has not come",
                "its last call was `world #39", within=LIMIT)


def stands_still(tally, folder):
    run = start(folder, 3, "calls", 60)
    run.wait_for("Gloo")
    time.sleep(1)
    os.kill(run.ranks()[1], signal.SIGSTOP)
    tally.check("a rank is stopped", run.end(), 1, "; rank 1 (", "does not answer any more, so it is dead or stopped",
                "killed, since they did not end by themselves: ranks 1", within=LIMIT)


def stands_still_as_shipped(tally, folder):
    """With the time-out that users have: for the bar, not for each test run."""
    run = Started(launch(3, "calls", 120, binary=RANK_CASES, logs=folder))
    run.wait_for("Gloo")
    time.sleep(1)
    begun = time.monotonic()
    os.kill(run.ranks()[1], signal.SIGSTOP)
    ended = run.end()
    ended.seconds = time.monotonic() - begun
    tally.check("a rank is stopped, the shipped time-out", ended, 1, "; rank 1 (", "does not answer any more, so it is dead or stopped",
                within=LIMIT)


def throws(tally, folder):
    tally.check("a rank throws", start(folder, 3, "throw").end(), 1,
                "rank 1 on ", "out/step-3: cannot write: No space left", within=LIMIT)


def leaves_early(tally, folder):
    tally.check("a rank ends too soon", start(folder, 3, "early").end(), 1, "rank 1 (", "has left: it has ended", within=LIMIT)


def wrong_size(tally, folder):
    tally.check("a message of another size", start(folder, 3, "wrong_size").end(), 1,
                "ranks differ: rank 0 called #5 all_reduce Float [4], rank 1 called #5 all_reduce Float [5]", within=LIMIT)
    tally.check("rows that another rank does not expect", start(folder, 3, "wrong_rows").end(), 1,
                "ranks differ: rank 1 sends 2 rows to rank 0, which receives 1 from it", within=LIMIT)


def differs(tally, folder):
    tally.check("another config", start(folder, 3, "differ").end(), 2,
                "rank 1 (", "has another config than rank 0", "`steps: 20`, rank 0 has `steps: 10`", within=LIMIT)
    # Another binary on rank 1: a copy with a byte more at its end, behind a script that chooses.
    other = pathlib.Path(folder) / "rank_cases"
    shutil.copy(RANK_CASES, other)
    with other.open("ab") as file:
        file.write(b"\n")
    script = pathlib.Path(folder) / "choose.sh"
    script.write_text(f'#!/bin/sh\n[ "$RANK" = 1 ] && exec "{other}" "$@"\nexec "{RANK_CASES}" "$@"\n')
    script.chmod(0o755)
    ended = Started(launch(3, "values", binary=str(script), logs=folder, timeout=TIMEOUT)).end()
    tally.check("another binary", ended, 2, "rank 1 (", "has another program than rank 0", within=LIMIT)


def launcher_dies(tally, folder):
    run = start(folder, 3, "calls", 60)
    run.wait_for("Gloo")
    run.process.kill()
    tally.check("the launcher is killed", run.end(), -signal.SIGKILL, within=LIMIT)


def usage(tally, folder):
    tally.check("no verb", Started([CONCLAVE, "launch", "-n", "2"]).end(), 2, "expected a verb")
    tally.check("no config", Started(launch(2, "pretrain", "no-such-file.yaml", logs=folder)).end(), {1, 2}, "no-such-file.yaml")


CASES = (dies, first_dies, dies_at_start, dies_without_launcher, dies_under_others, hangs, stands_still, throws, leaves_early,
         wrong_size, differs, launcher_dies, usage)


def main():
    tally = Tally()
    for case in [globals()[name] for name in sys.argv[1:]] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            case(tally, folder)
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())
