"""Every collective between processes over Gloo (rank_cases.cpp), started by each launcher that is there: the values are those
of thread ranks, to the bit. Exit status 0 or 1; a launcher that is not there is named.

    values_test.py [RANKS...]
"""

import subprocess
import sys
import tempfile

from processes import RANK_CASES, Started, Tally, launch, mpirun, srun_by_hand, together, torchrun


def main():
    sizes = [int(a) for a in sys.argv[1:]] or [4]
    tally = Tally()
    with tempfile.TemporaryDirectory() as logs:
        for ranks in sizes:
            ended = Started(launch(ranks, "values", binary=RANK_CASES, logs=logs)).end()
            tally.check(f"conclave launch, {ranks} ranks", ended, 0, "all well")
            for name, command in ("torchrun", torchrun(ranks, RANK_CASES, "values")), ("mpirun", mpirun(ranks, RANK_CASES, "values")):
                if command:
                    tally.check(f"{name}, {ranks} ranks", Started(command).end(), 0, "all well")
                else:
                    print(f"skipped: {name} cannot be found (mpirun: apt-get install openmpi-bin; torchrun: make test)")
            tally.check(f"the environment of srun, {ranks} ranks", together(srun_by_hand(ranks, [RANK_CASES, "values"])), 0, "all well")
    return tally.finish()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as e:
        sys.exit(f"took too long: {e}")
