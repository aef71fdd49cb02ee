"""`conclave pretrain` in bf16 on ranks that share one GPU, over NCCL, for weights that are cut, gathered ahead and given back, and for
experts that are dealt out:
 - fifty losses as close to one rank's with the same micro-batches as three times the difference between one-rank runs with other cuts,
   in the mean over pairs of four (they part slowly at first, for a rounding decides an expert here and there; so the first five are held to a
   hundredth of that);
 - ten steps with random delays on each stream and slots filled with NaN once they are given back: the same bits as without, in losses,
   norms, weights and moments.
Exit status 0 or 1; 77 without a GPU.

    nccl_pretrain_test.py [RANKS...] [--only losses|delays]
"""

import argparse
import itertools
import json
import pathlib
import sys
import tempfile

from processes import ROOT, Started, Tally, has_gpu, launch

sys.path.append(str(ROOT / "tests/bars"))

from tiny_run import TinyRun  # noqa: E402

STEPS, DELAYED, ROWS = 50, 10, 8
SETTINGS = {"steps": STEPS, "device": "cuda", "dtype": "bf16", "deterministic": True, "validation__every": 0, "checkpoint__every": DELAYED,
            "checkpoint__keep_last": STEPS, "schedule__kind": "constant", "schedule__warmup_steps": 5}
RELEASE = {"weights": "release"}
LAYOUTS = [(2, {"ep": 2}), (2, {"ep": 1} | RELEASE), (4, {"ep": 2, "at_once": 2} | RELEASE),
           (4, {"dp_replicate": 2, "ep": 4, "dispatcher": "all_gather"} | RELEASE), (8, {"ep": 4} | RELEASE)]
DISTURBED = {"CONCLAVE_DELAYS": "1:3000", "CONCLAVE_POISON": "on"}


def metrics(output, *keys):
    lines = (pathlib.Path(output) / "metrics.jsonl").read_text().splitlines()
    return [tuple(json.loads(line)[k] for k in keys) for line in lines]


def losses(output):
    return [loss for loss, in metrics(output, "loss")]


def furthest(a, b, steps=STEPS):
    return max(abs(x - y) for x, y in list(zip(a, b, strict=True))[:steps])


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(pathlib.Path(folder).iterdir())}


def cut(ranks, layout):
    """Rows of a micro-batch."""
    return ROWS // ranks // layout.get("at_once", 1)


class Test:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.tiny = TinyRun(self.folder / "shared")
        self.tally = Tally()

    def start(self, name, ranks, layout, variables=None, **more):
        settings = SETTINGS | {"batch__micro_rows": cut(ranks, layout)} | {f"parallel__{k}": v for k, v in layout.items()} | more
        command = launch(ranks, *self.tiny.command(self.folder / name, **settings)[1:], logs=self.folder / f"{name}-logs", timeout=40)
        return Started(command, CONCLAVE_SHARE_GPU=1, **(variables or {})).end()

    def one_rank(self, cuts):
        self.one = {}
        for rows in cuts:
            name = f"one-{rows}"
            ended = Started(self.tiny.command(self.folder / name, **SETTINGS, batch__micro_rows=rows)).end()
            self.tally.check(f"one rank, {rows} rows at once", ended, 0)
            self.one[rows] = losses(self.folder / name)
        apart = {(a, b): furthest(self.one[a], self.one[b]) for a, b in itertools.combinations(cuts, 2)}
        self.allowed = 3 * sum(apart.values()) / len(apart)
        print(f"losses from {self.one[ROWS][0]:.4f} to {self.one[ROWS][-1]:.4f}; two cuts are apart by "
              + ", ".join(f"{d:.1e}" for d in apart.values()) + f"; allowed: {self.allowed:.2e}", flush=True)

    def compare_losses(self, name, ranks, layout):
        ended = self.start(name, ranks, layout)
        off = early = None
        if ended.status == 0:
            mine, theirs = losses(self.folder / name), self.one[cut(ranks, layout)]
            off, early = furthest(mine, theirs), furthest(mine, theirs, 5)
            if off > self.allowed or early > self.allowed / 100:
                ended.status = "0, but too far off"
        self.tally.check(f"{ranks} ranks, {layout}: off by {off} in all, by {early} in the first five", ended, 0)

    def compare_bits(self, name, ranks, layout):
        """The first steps of the run `name`, made first if it was not, against a disturbed one."""
        if not (self.folder / name / "metrics.jsonl").exists():
            self.tally.check(f"{ranks} ranks, {layout}: undisturbed", self.start(name, ranks, layout, steps=DELAYED), 0)
        other = f"{name}-disturbed"
        ended = self.start(other, ranks, layout, DISTURBED, steps=DELAYED)
        if ended.status == 0:
            keys = ("step", "loss", "grad_norm")
            step = f"step-{DELAYED:08}"
            saved, theirs = files(self.folder / name / step), files(self.folder / other / step)
            differ = [f for f in saved.keys() | theirs.keys() if f != "manifest.json" and saved.get(f) != theirs.get(f)]
            if metrics(self.folder / name, *keys)[:DELAYED] != metrics(self.folder / other, *keys):
                differ.append("metrics.jsonl")
            if differ:
                ended.status = f"0, but {', '.join(sorted(differ))} differ"
        self.tally.check(f"{ranks} ranks, {layout}: {DELAYED} steps with delays and poison, bit for bit", ended, 0)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("ranks", nargs="*", type=int)
    options.add_argument("--only", choices=["losses", "delays"])
    options = options.parse_args()
    if not has_gpu():
        return 77
    layouts = [(i, r, layout) for i, (r, layout) in enumerate(LAYOUTS) if not options.ranks or r in options.ranks]
    with tempfile.TemporaryDirectory() as folder:
        test = Test(folder)
        if options.only != "delays":
            test.one_rank((8, 4, 2, 1))
        for i, ranks, layout in layouts:
            if options.only != "delays":
                test.compare_losses(f"ranks-{i}", ranks, layout)
            if options.only != "losses":
                test.compare_bits(f"ranks-{i}", ranks, layout)
        return test.tally.finish()


if __name__ == "__main__":
    sys.exit(main())
