#!/usr/bin/env python3
"""The experts' first product on one GPU: our fused kernel beside gather + torch._grouped_mm + a compiled SwiGLU (issue #5, bar 3).

Rank shapes of Qwen3-30B (EP8), GPT-OSS-20B (EP8; clamped, with a bias) and DeepSeek-V3 (EP64), bf16, random data, equal loads, times
the routing weights. Ours runs in a process of its own, `experts_bench --serve`, which times a candidate when it is asked to. The
card is at its power limit, so all take turns in random order, 3 + 8 calls a turn, and medians of CUDA events count.

    bench/peer_experts.py [--bench build/release/bench/experts_bench] [--rounds 8]

Prints a line of JSON a shape. Exit status 0 if every ratio is at least its bar's, 1 if not, 77 where there is no GPU.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys

try:
    import torch
except ImportError:
    print("skipped: torch is not installed")
    sys.exit(77)
if not torch.cuda.is_available():
    print("skipped: no GPU here")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[1]
# tokens, hidden, ffn, experts, top_k, clamped, the least ratio; names as experts_bench has them
SHAPES = {
    "qwen3 8192": (8192, 2048, 768, 16, 8, False, 1.3),
    "qwen3 16384": (16384, 2048, 768, 16, 8, False, 1.3),
    "gpt-oss 8192": (8192, 2880, 2880, 4, 4, True, 1.15),
    "deepseek 32768": (32768, 7168, 2048, 4, 1, False, 1.1),
}
GEMM = "gemm 8192^3"


@torch.compile(dynamic=False)
def swiglu(h, weights):
    gate, up = h.chunk(2, -1)
    return (torch.nn.functional.silu(gate.float()) * up.float() * weights[:, None]).to(h.dtype)


@torch.compile(dynamic=False)
def clamped_swiglu(h, bias, expert, weights):
    """h with its bias, as it is kept for the backward, and the activations."""
    h = h + bias[expert]
    gate, up = h[:, ::2].float().clamp(max=7.0), h[:, 1::2].float().clamp(-7.0, 7.0)
    return h, (gate * torch.sigmoid(1.702 * gate) * (up + 1) * weights[:, None]).to(h.dtype)


def peer(tokens, hidden, ffn, experts, top_k, clamped):
    """gather + _grouped_mm + SwiGLU, rows sorted by expert, every expert with as many."""
    bf16 = dict(device="cuda", dtype=torch.bfloat16)
    rows = tokens * top_k
    expert, order = torch.sort(torch.arange(rows, device="cuda") % experts, stable=True)
    index = order // top_k
    ends = torch.cumsum(torch.bincount(expert, minlength=experts), 0).int()
    x, w = torch.randn(tokens, hidden, **bf16), torch.randn(experts, 2 * ffn, hidden, **bf16) * 0.02
    weights, bias = torch.rand(rows, device="cuda") + 0.5, torch.randn(experts, 2 * ffn, **bf16)

    def run():
        h = torch._grouped_mm(x[index], w.transpose(1, 2), offs=ends)
        return clamped_swiglu(h, bias, expert, weights) if clamped else swiglu(h, weights)

    return run


def gemm():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return lambda: a @ b.T


def times(run):
    """ms of 8 calls, 3 more before them."""
    for _ in range(3):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(8)]
    for begin, end in events:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in events]


class Ours:
    """experts_bench for a shape, waiting to be asked."""

    def __init__(self, program, shape):
        command = [program, f"--shape={shape}", "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("ready")

    def expect(self, word):
        line = self.process.stdout.readline()
        if not line.startswith(word):
            sys.exit(f"experts_bench: expected {word!r}, got {line.strip()!r}")
        return line

    def times(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(program, name, rounds):
    *shape, least = SHAPES[name]
    tokens, hidden, ffn, _, top_k, _ = shape
    ours, theirs, plain = Ours(program, name), peer(*shape), gemm()
    candidates = {"ours": lambda: ours.times("up: fused"), "separate": lambda: times(theirs), GEMM: lambda: times(plain)}
    theirs()  # compiles
    seen = {what: [] for what in candidates}
    for _ in range(rounds):
        for what in random.sample(list(candidates), len(candidates)):
            seen[what] += candidates[what]()
    ours.close()
    ms = {what: statistics.median(t) for what, t in seen.items()}
    flops = {what: 2 * 8192**3 if what == GEMM else 4 * tokens * top_k * hidden * ffn for what in ms}
    rates = {what: round(flops[what] / ms[what] / 1e9, 1) for what in ms}
    return dict(shape=name, tflops=rates, ratio=round(ms["separate"] / ms["ours"], 3), at_least=least)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", default=str(ROOT / "build/release/bench/experts_bench"))
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    random.seed(1)
    print(json.dumps(dict(device=torch.cuda.get_device_name(), torch=torch.__version__)), flush=True)
    good = True
    for name in SHAPES:
        result = compare(args.bench, name, args.rounds)
        print(json.dumps(result), flush=True)
        good &= result["ratio"] >= result["at_least"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
