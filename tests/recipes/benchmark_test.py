"""`conclave benchmark` on the CPU: a smaller run of each shipped config ends, its figures agree with each other, its parts add up to
its steps; settings that do not go together are one message and status 2."""

import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))

from program import ROOT, conclave  # noqa: E402

failures = []
TINY = ["device=cpu", "cpu.width=64", "cpu.heads=16", "cpu.head_dim=16", "cpu.layers=2", "cpu.seq_len=64", "batch.rows=4", "batch.micro_rows=2"]
RANKS = {"qwen3_moe_30b": (1, 5.34), "gptoss_20b": (1, 3.44), "gptoss_120b": (2, 3.95), "deepseek_v3": (2, 7.68), "kimi_k2": (4 / 3, 7.24)}


def check(what, holds, seen=""):
    print(("ok    " if holds else "FAILED ") + what + ("" if holds else f": {seen}"))
    if not holds:
        failures.append(what)


def benchmark(config, sets):
    return conclave("benchmark", config, *[word for s in sets for word in ("--set", s)])


def run(config, sets):
    with tempfile.TemporaryDirectory() as folder:
        done = benchmark(config, [*TINY, f"output={folder}/out.json", f"profile={folder}/trace.json", "warmup=1", "steps=3", *sets])
        if done.returncode != 0:
            return done, None
        folder = pathlib.Path(folder)
        trace = json.loads((folder / "trace.json").read_text())
        check("the trace has events of a step", len(trace) > 20 and all(e["ph"] == "X" and e["dur"] >= 0 for e in trace), len(trace))
        return done, json.loads((folder / "out.json").read_text())


def check_run(name, gate, precision):
    what = f"{name}, {gate}, {precision}: "
    for _ in range(3):  # a machine with too much to do puts a program aside between two readings of the clock, too
        done, r = run(f"configs/benchmark/{name}.yaml", [f"gate={gate}", f"precision={precision}"])
        if r is None or abs(sum(r["parts"].values()) - r["seconds_per_step"]) <= 0.02 * r["seconds_per_step"]:
            break
    check(what + "ends", r is not None, done.stderr)
    if r is None:
        return
    check(what + "says that it is smaller", "smaller model runs on the CPU" in done.stderr and r["smaller"] != "", done.stderr)
    step = r["seconds_per_step"]
    parts = sum(r["parts"].values())
    check(what + "parts add up to the step", abs(parts - step) <= 0.02 * step, f"{parts} of {step}")
    check(what + "no part is left out", {"attention", "router", "dispatch", "fc1", "fc2", "combine", "optimizer"} <= set(r["parts"]), r["parts"])
    rate = r["tokens_per_second"] * r["flops_per_token"] / 1e12
    check(what + "rates agree", abs(rate - r["model_tflops"]) <= 1e-9 * rate, f"{rate}, {r['model_tflops']}")
    balanced, uniform = RANKS[name]
    if gate == "balanced":
        check(what + "rows received", abs(r["rows_received_per_token"] - balanced) <= 0.05, r["rows_received_per_token"])
    elif gate == "uniform":
        check(what + "rows received", abs(r["rows_received_per_token"] - uniform) <= 0.15, r["rows_received_per_token"])
    else:
        check(what + "rows received", 1 <= r["rows_received_per_token"] <= 8, r["rows_received_per_token"])


for name in RANKS:
    for gate, precision in [("real", "bf16"), ("balanced", "master"), ("uniform", "bf16")]:
        check_run(name, gate, precision)

QWEN = "configs/benchmark/qwen3_moe_30b.yaml"
for sets, expected in [
    (["gate=chance"], "balanced"),
    (["layout.ep=3"], "expected a divisor"),
    (["layout.pp=3"], "expected a divisor"),
    (["batch.micro_rows=3"], "expected a divisor of batch.rows"),
    (["cuda_graph=true", "gate=uniform"], "draws the same experts"),
    (["profile=trace.json", "traced_steps=0"], "set traced_steps to 1 or more"),
    (["recompute=[gates]"], "cannot be made again"),
    (["layers=49"], "expected at most the 48"),
    (["model.config.num_expert=8"], "did you mean `num_experts`?"),
]:
    done = benchmark(QWEN, sets)
    fine = done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1
    check(" ".join(sets), fine, f"status {done.returncode}: {done.stderr}")
for sets, expected in [(["memory_limit=72"], "expected a size"), (["memory_limit=1 GiB"], "the limit is 1.0 GiB")]:
    done = conclave("benchmark", QWEN, "--dry-run", "--set", *sets)
    check(" ".join(sets), done.returncode == 2 and expected in done.stderr, f"status {done.returncode}: {done.stderr}")

if __name__ == "__main__":
    sys.exit(1 if failures else 0)
