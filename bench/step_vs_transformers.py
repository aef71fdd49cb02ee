#!/usr/bin/env python3
"""One CPU training step in fp32: conclave beside transformers + torch's AdamW, the same model, batch and threads (issue #3, bar 5).

A step is forward, loss, backward and the AdamW update, with everything already in memory. The peer is the fastest of its own
ways: eager or grouped_mm experts, AdamW one by one, foreach or fused; attention is torch's scaled_dot_product_attention. All
alternate in one run; the minimum over all timed steps counts. The losses of both are compared as well, so that the
same work is timed.

    bench/step_vs_transformers.py [--size demo|large|both] [--threads N] [--rounds N]

Exit status 0 if every ratio is within its bar, 1 if not, 77 where transformers is not installed.
"""

import argparse
import gc
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "parity"))

import reference  # noqa: E402  leaves with 77 if transformers is missing
import torch  # noqa: E402
import yaml  # noqa: E402  comes with transformers
from program import forward  # noqa: E402

EXPERTS = ("eager", "grouped_mm")
ADAMW = ({"foreach": False}, {"foreach": True}, {"fused": True})
WARM, TIMED = 1, 2  # steps a round
LARGE = dict(vocab_size=8192, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2, head_dim=64)
LARGE |= dict(num_experts=16, num_experts_per_tok=4, moe_intermediate_size=256, intermediate_size=1024, norm_topk_prob=True)


def demo():
    """(model config, [rows, seq]) of configs/pretrain/demo.yaml; the tokenizer's size where the config leaves it open."""
    config = yaml.safe_load((ROOT / "configs/pretrain/demo.yaml").read_text())
    model = {k: number(v) for k, v in config["model"]["config"].items()}
    if "vocab_size" not in model:
        model["vocab_size"] = vocabulary(ROOT / config["data"]["tokenizer"] / "tokenizer.json")
    return model, (config["batch"]["rows"], config["data"]["seq_len"])


def number(value):
    """YAML 1.1, which is what Python's reader knows, takes 1e-6 for a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def vocabulary(path):
    if path.exists():
        tokens = json.loads(path.read_text())
        return max([*tokens["model"]["vocab"].values(), *(t["id"] for t in tokens["added_tokens"])]) + 1
    sizes = [yaml.safe_load(p.read_text()) for p in sorted((ROOT / "configs").rglob("*tokenizer*.yaml"))]
    for size in (s for config in sizes for s in (config, *config.values()) if isinstance(s, dict) and "vocab_size" in s):
        return size["vocab_size"]
    sys.exit(f"{path}: not there; run `make demo` once, it trains the tokenizer that the demo's model takes its size from")


class Peer:
    """transformers' model and torch's AdamW in one of their ways."""

    def __init__(self, folder, experts, adamw):
        self.name = f"{experts} experts, AdamW {'one by one' if adamw == ADAMW[0] else next(iter(adamw))}"
        self.model = reference.load(folder, attention="sdpa", experts=experts)
        self.adamw = reference.optimizer(self.model, **adamw)
        self.seconds, self.losses = [], []

    def steps(self, ids):
        for i, batch in enumerate(ids):
            begin = time.perf_counter()
            self.adamw.zero_grad()
            loss = self.model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            self.adamw.step()
            self.losses.append(loss.item())
            if i >= WARM:
                self.seconds.append(time.perf_counter() - begin)


class Ours:
    name = "conclave"

    def __init__(self, folder, tmp, threads):
        self.args, self.out, self.threads = (folder, f"{tmp}/ids.st"), f"{tmp}/out.st", threads
        self.seconds, self.losses = [], []

    def steps(self, ids):
        reference.write_ids(self.args[1], ids)
        got = forward(*self.args, self.out, "--steps", str(len(ids)), "--timings", "--dtype", "fp32", threads=self.threads)
        self.seconds += got["seconds"].tolist()[WARM:]
        self.losses += got["losses"].tolist()


def bench(name, config, shape, bar, args):
    torch.set_num_threads(args.threads)
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(config["vocab_size"], (WARM + TIMED, *shape), generator=random)
    with tempfile.TemporaryDirectory() as tmp:
        torch.manual_seed(1)
        model = reference.transformers.Qwen3MoeForCausalLM(reference.transformers.Qwen3MoeConfig(**config))
        total = sum(p.numel() for p in model.parameters())
        model.save_pretrained(f"{tmp}/model")
        print(f"{name}: {total / 1e6:.1f} M parameters, {shape[0]} × {shape[1]} tokens, {args.threads} threads", flush=True)
        adamw = fastest_adamw(f"{tmp}/model", ids)
        ours, peers = Ours(f"{tmp}/model", tmp, args.threads), [Peer(f"{tmp}/model", e, adamw) for e in EXPERTS]
        for _ in range(args.rounds):
            for one in (ours, *peers):
                one.steps(ids)
    peer = min(peers, key=lambda p: min(p.seconds))
    apart = max(abs(a - b) / b for a, b in zip(ours.losses[: len(ids)], peer.losses[: len(ids)]))
    for one in (ours, *peers):
        low, middle = min(one.seconds), statistics.median(one.seconds)
        rate = shape[0] * shape[1] / low
        print(f"  {one.name:44} {low * 1e3:9.1f} ms  (median {middle * 1e3:.1f} of {len(one.seconds)}) {rate:9.0f} tokens/s")
    ratio = min(ours.seconds) / min(peer.seconds)
    good = ratio <= bar and apart < 1e-4
    print(f"  ratio {ratio:.3f}, bar {bar:.1f}; first losses apart by {apart:.1e}  {'PASS' if good else 'FAIL'}", flush=True)
    return good


def fastest_adamw(folder, ids):
    """The quickest of torch's AdamWs by itself, minimum of 5."""
    least = {}
    for i, how in enumerate(ADAMW):
        peer = Peer(folder, EXPERTS[0], how)
        peer.model(input_ids=ids[0], labels=ids[0], use_cache=False).loss.backward()
        times = []
        for _ in range(6):  # the first makes the moments
            begin = time.perf_counter()
            peer.adamw.step()
            times.append(time.perf_counter() - begin)
        least[i] = min(times[1:])
        print(f"    {peer.name.partition(', ')[2]:42} {least[i] * 1e3:9.1f} ms", flush=True)
        del peer
        gc.collect()
    return ADAMW[min(least, key=least.get)]


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--size", choices=["demo", "large", "both"], default="both")
    parse.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parse.add_argument("--rounds", type=int, default=5)
    args = parse.parse_args()
    results = []
    if args.size != "large":
        results.append(bench("the demo's model", *demo(), 0.8, args))
    if args.size != "demo":
        results.append(bench("hidden 512, 8 layers", LARGE, (4, 256), 1.0, args))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
