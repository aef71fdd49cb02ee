"""Every collective over NCCL between processes that share one GPU (2, 4, 8 of them, over sockets), and what NCCL's ranks say when one
hangs, dies or sends another size. Exit status 0 or 1; 77 without a GPU.

    nccl_test.py [RANKS...]
"""

import pathlib
import sys
import tempfile

from processes import LIMIT, RANK_CASES, Started, Tally, has_gpu, launch

CUDA = {"CONCLAVE_TEST_DEVICE": "cuda", "CONCLAVE_SHARE_GPU": 1}
SIZES = [int(a) for a in sys.argv[1:]] or [2, 4, 8]


def start(folder, ranks, *case, timeout=15, **variables):
    return Started(launch(ranks, *case, binary=RANK_CASES, logs=folder, timeout=timeout), **CUDA, **variables).end()


def main():
    if not has_gpu():
        return 77
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        for ranks in SIZES:
            tally.check(f"NCCL, {ranks} ranks on one GPU", start(folder, ranks, "values", timeout=60), 0, "NCCL 2.", "all well")
        tally.check("a rank hangs", start(folder, 2, "calls", 60, CONCLAVE_HANG_AT="comm.call:40", CONCLAVE_FAULT_RANK=1), 1,
                    "for rank 1;", "runs, but has not come", within=LIMIT)
        tally.check("a rank is killed", start(folder, 2, "calls", 60, CONCLAVE_KILL_AT="comm.call:40", CONCLAVE_FAULT_RANK=1), 1,
                    "rank 1 on ", "was killed by signal 9", within=LIMIT)
        tally.check("another size, compared", start(folder, 2, "wrong_size", CONCLAVE_COMPARE_CALLS=1), 1,
                    "ranks differ: rank 0 called #5 all_reduce Float [4], rank 1 called #5 all_reduce Float [5]", within=LIMIT)
        print(pathlib.Path(folder, "rank-1.log").read_text()[-2000:])
    return tally.finish()


if __name__ == "__main__":
    sys.exit(main())
