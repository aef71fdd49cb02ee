#!/usr/bin/env python3
"""What a user runs today for the layers of `conclave benchmark`: transformers' own decoder layers on one GPU, each compiled by itself
by torch.compile, experts by grouped_mm, routed by their own router, attention by cuDNN (GPT-OSS: flex attention, which has its
sinks). They do one rank's share of a published layout (issue #5, bars 1 and 2): its experts, all pairs of its tokens.

    bench/peer_layers.py [--adam] [--layers N] [--rows N] [--output FILE] [--small] MODEL:MICRO_ROWS...

MODEL is a file of configs/benchmark, e.g. qwen3_moe_30b:2. A line of JSON a case: forward and backward of the layers on one
micro-batch, where a step of `conclave benchmark` is compared with its parts of the layers; with --adam a whole step of --rows sequences
too (gradients add up, fused Adam once). Rates are of model FLOPs, as plan/flops counts them. Run it in the same call as the benchmark:
cards and clocks differ. Needs torch 2.11 and transformers 5.17, no network. Exit status 77 where there is no GPU; --small, a
smaller model for a few seconds on the CPU, shows only that the program runs.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
WARM, TIMED = 4, 10
GEMM = 8192

try:
    import torch
    import transformers
    import yaml  # comes with transformers
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as missing:
    print(f"bench/peer_layers.py needs torch, transformers and PyYAML: {missing}", file=sys.stderr)
    sys.exit(77)


def number(value):
    """YAML 1.1, which is what Python's reader knows, takes 1e-6 for a text."""
    if isinstance(value, dict):
        return {k: number(v) for k, v in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def share(name, args):
    """(config.json of a rank's layers, experts of the whole model, layers of the whole model)."""
    path = ROOT / "configs/benchmark" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        sys.exit(f"bench/peer_layers.py: no model is called {name}; there are {known}")
    read = yaml.safe_load(path.read_text())
    config, ranks = number(read["model"]["config"]), read["layout"]["ep"]
    key = next((k for k in ("num_experts", "num_local_experts") if k in config), None)
    if key is None or config[key] // ranks < config["num_experts_per_tok"]:
        sys.exit(f"bench/peer_layers.py: {name} has no peer: a token chooses more experts than a rank of {ranks} holds")
    experts, layers = config[key], config["num_hidden_layers"]
    config |= {key: experts // ranks, "num_hidden_layers": args.layers, "vocab_size": 1024}
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][: args.layers]
    if args.small:
        config |= {k: 64 for k in ("hidden_size", "intermediate_size", "moe_intermediate_size") if k in config}
        config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    return config, experts, layers


def flops_per_token(config, seq_len):
    """Forward and backward, the products of the layers alone; causal attention at half, a window's exact pairs."""
    hidden, size = config["hidden_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    ffn = config.get("moe_intermediate_size") or config["intermediate_size"]
    products = hidden * size * (heads + 2 * kv_heads) + heads * size * hidden + 3 * hidden * ffn * config["num_experts_per_tok"]
    total = 0
    for kind in config.get("layer_types", ["full_attention"] * config["num_hidden_layers"]):
        pairs = seq_len / 2  # a token
        if kind == "sliding_attention":
            window = min(config["sliding_window"], seq_len)
            pairs = (window * (window + 1) / 2 + (seq_len - window) * window) / seq_len
        total += 6 * (products + 2 * heads * size * pairs)
    return total


def timed(call, device, times=TIMED, warm=WARM):
    """Median seconds of a call. On a GPU calls are queued one behind the other, so that it waits only for a host that is late."""
    for _ in range(warm):
        call()
    if device.type == "cpu":
        seconds = []
        for _ in range(times):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:])) / 1e3


def normal(*shape, device, scale=1.0):
    return torch.randn(*shape, device=device, dtype=torch.bfloat16).mul_(scale)


def gemm_rate(device, size):
    """As `conclave benchmark` measures it, behind the steps."""
    a, b = normal(size, size, device=device), normal(size, size, device=device)
    c = torch.empty_like(a)
    return 2 * size**3 / timed(lambda: torch.mm(a, b.t(), out=c), device, times=20, warm=5)


def layers_of(config, attention, device):
    """transformers' model without its ends: embeddings go in, and only its layers and last norm are computed."""
    torch.manual_seed(1234)
    settings = transformers.AutoConfig.for_model(**config)
    settings._experts_implementation = "grouped_mm"
    with torch.device(device):
        model = transformers.AutoModel.from_config(settings, attn_implementation=attention, dtype=torch.bfloat16)
    model.embed_tokens = None
    got = model.config._experts_implementation, model.config._attn_implementation
    if got != ("grouped_mm", attention):
        raise SystemExit(f"bench/peer_layers.py: transformers runs experts and attention by {got}, not by grouped_mm and {attention}")
    for layer in model.layers:
        layer.compile(dynamic=False)
    return model.train()


class Layers:
    def __init__(self, config, attention, rows, seq_len, device):
        self.model = layers_of(config, attention, device)
        self.parameters = [p for p in self.model.parameters()]
        self.x = normal(rows, seq_len, config["hidden_size"], device=device).requires_grad_()
        self.gradient = normal(rows, seq_len, config["hidden_size"], device=device, scale=1e-3)

    def forward_backward(self):
        self.model(inputs_embeds=self.x, use_cache=False).last_hidden_state.backward(self.gradient)
        self.x.grad = None

    def forget(self):
        for p in self.parameters:
            p.grad = None

    def micro_batch(self):
        self.forward_backward()
        self.forget()

    def attention_operators(self):
        """Which of ATen's attentions the compiled layers call; none where it was compiled along with them."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.micro_batch()
        return sorted({e.key for e in profile.key_averages() if "attention" in e.key and e.key.startswith("aten::")})


def differences(config, experts, layers, args):
    """From what `conclave benchmark` runs of this model."""
    held = config.get("num_experts") or config["num_local_experts"]
    return [
        f"{config['num_hidden_layers']} of {layers} layers",
        f"a router {held} wide instead of {experts}",
        "no embedding, head and loss",
        "no receive buffer: nothing stands in for dispatch and combine",
        "gradients of each micro-batch written, not added to those before",
    ]


def measure(case, args, device):
    name, rows = case.split(":")
    rows = int(rows)
    config, experts, layers = share(name, args)
    attention = "sdpa" if config["model_type"] != "gpt_oss" else "eager" if args.small else "flex_attention"
    flops, tokens = flops_per_token(config, args.seq_len), rows * args.seq_len
    gpu, gemm_size = device.type == "cuda", 256 if args.small else GEMM
    torch._dynamo.reset()
    begin = time.perf_counter()
    run = Layers(config, attention, rows, args.seq_len, device)
    run.micro_batch()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    first = time.perf_counter() - begin
    seconds = timed(run.micro_batch, device)
    peak = torch.cuda.max_memory_allocated() if gpu else 0
    gemm = gemm_rate(device, gemm_size)
    with_adam = {}
    if args.adam:
        adam = torch.optim.Adam(run.parameters, lr=1e-4, fused=True)

        def whole_step():
            for _ in range(args.rows // rows):
                run.forward_backward()
            adam.step()
            run.forget()

        step = timed(whole_step, device, times=3, warm=1)
        of_gemm = flops * args.rows * args.seq_len / step / gemm
        with_adam = {"rows": args.rows, "seconds_per_step": step, "step_of_gemm": of_gemm}
    return {
        "model": name,
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}, layers compiled, grouped_mm, own router",
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "layers": args.layers,
        "micro_rows": rows,
        "seq_len": args.seq_len,
        "attention": attention,
        "attention_operators": run.attention_operators(),
        "seconds_per_micro_batch": seconds,
        "seconds_per_layer_and_token": seconds / tokens / args.layers,
        "tokens_per_second": tokens / seconds,
        "flops_per_token": flops,
        "model_tflops": flops * tokens / seconds / 1e12,
        "gemm_tflops": gemm / 1e12,
        "of_gemm": flops * tokens / seconds / gemm,
        "peak_memory_bytes": peak,
        "first_call_seconds": first,
        "differences": differences(config, experts, layers, args),
    } | with_adam


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("cases", nargs="*", default=["qwen3_moe_30b:2", "gptoss_20b:2"], metavar="MODEL:MICRO_ROWS")
    parse.add_argument("--adam", action="store_true")
    parse.add_argument("--layers", type=int, default=8)
    parse.add_argument("--rows", type=int, default=16)
    parse.add_argument("--output", type=pathlib.Path, help="appends the lines of JSON to this file")
    parse.add_argument("--small", action="store_true")
    args = parse.parse_args()
    args.seq_len = 64 if args.small else 4096
    if not args.small and not torch.cuda.is_available():
        print("bench/peer_layers.py: no GPU is here; --small runs a smaller model on the CPU", file=sys.stderr)
        return 77
    device = torch.device("cpu" if args.small else "cuda")
    cudnn_first = sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True)
    for case in args.cases:
        with contextlib.nullcontext() if args.small else cudnn_first:
            result = measure(case, args, device)
        line = json.dumps(result)
        print(line, flush=True)
        if args.output:
            with args.output.open("a") as file:
                file.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
