"""`conclave forward` on folders that no test made: fresh random models of the four families, drawn from the clock, written by
transformers' own save_pretrained, config.json in either spelling. Logits, loss, chosen experts and every gradient in fp32 (1e-5,
max-norm per tensor) and fp64 (1e-10, casts to fp32 lifted), and ten AdamW steps' losses (2e-6, 1e-10).

    python tests/bars/fresh_folders.py [N [SEED]]      N models a family (2); the seed that is printed repeats a run

Knows nothing of tests/parity/families: a gradient gets its name and its shape in the file from save_pretrained itself, which is
given gradients in place of weights. Exit status 0, 1, or 77 where transformers is not installed.
"""

import contextlib
import json
import pathlib
import random
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))

import reference  # leaves with 77 if transformers is missing
import torch
import transformers
from program import forward
from safetensors.torch import load_file
from transformers import DeepseekV3Config, GptOssConfig, Qwen3MoeConfig

MODELS = {"qwen3_moe": "Qwen3MoeForCausalLM", "gpt_oss": "GptOssForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
FAMILIES = [*MODELS, "kimi_k2"]
DTYPES = {"fp32": (torch.float32, 1e-5, 2e-6), "fp64": (torch.float64, 1e-10, 1e-10)}
KINDS = {k: k for k in ("logits", "loss", "ten losses")}
CLEAR = 2e-5  # a choice of experts nearer to a tie than this is drawn again: fp32 may decide it either way


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def odd(r, low, high):
    """Never a power of two."""
    return r.choice([n for n in range(low, high) if n & (n - 1)])


def common(r):
    c = dict(vocab_size=odd(r, 80, 200), hidden_size=odd(r, 30, 70), num_hidden_layers=r.randint(2, 4), pad_token_id=r.choice([None, 7]))
    return c | dict(rms_norm_eps=r.choice([1e-6, 1e-5]), max_position_embeddings=640, tie_word_embeddings=r.random() < 0.3)


def yarn(r, theta, **more):
    return dict(rope_type="yarn", rope_theta=theta, factor=r.choice([3.0, 8.0, 20.0]), original_max_position_embeddings=odd(r, 17, 33)) | more


def qwen3_moe(r):
    kv, experts = r.randint(1, 3), odd(r, 5, 12)
    rope = r.choice([dict(rope_type="default", rope_theta=3e5), yarn(r, 2e4, attention_factor=1.1), yarn(r, 5e3)])
    return Qwen3MoeConfig(
        **common(r), intermediate_size=odd(r, 20, 60), moe_intermediate_size=odd(r, 9, 30), num_key_value_heads=kv, rope_parameters=rope,
        num_attention_heads=kv * r.randint(1, 4), head_dim=2 * odd(r, 3, 9), num_experts=experts, num_experts_per_tok=r.randint(2, 4),
        norm_topk_prob=r.random() < 0.6, attention_bias=r.random() < 0.5, mlp_only_layers=[r.randrange(4)] if r.random() < 0.4 else [],
    )  # fmt: skip


def gpt_oss(r):
    kv, experts = r.randint(1, 3), odd(r, 5, 12)
    rope = yarn(r, r.choice([1.5e5, 7e3]), beta_fast=32.0, beta_slow=1.0, truncate=r.random() < 0.3)
    return GptOssConfig(
        **common(r), intermediate_size=odd(r, 9, 30), num_key_value_heads=kv, num_attention_heads=kv * r.randint(1, 4), rope_parameters=rope,
        head_dim=2 * odd(r, 3, 9), num_local_experts=experts, num_experts_per_tok=r.randint(2, 4), sliding_window=r.choice([2, 3, 6, 11]),
        eos_token_id=None,
    )  # fmt: skip


def deepseek_v3(r, groups=(1, 2, 3), **more):
    heads, groups = r.randint(2, 5), r.choice(groups)
    kept = r.randint(1, groups)
    experts = groups * odd(r, 3, 6) if groups > 1 else odd(r, 5, 12)
    rope = yarn(r, r.choice([1e4, 6e3]), beta_fast=32.0, beta_slow=1.0, mscale=r.choice([1.0, 0.7]), mscale_all_dim=r.choice([1.0, 0.6]))
    return DeepseekV3Config(
        **common(r) | dict(
            intermediate_size=odd(r, 20, 60), moe_intermediate_size=odd(r, 9, 30), num_attention_heads=heads, num_key_value_heads=heads,
            q_lora_rank=r.choice([None, odd(r, 9, 25)]), kv_lora_rank=odd(r, 9, 20), qk_nope_head_dim=odd(r, 5, 14), rope_parameters=rope,
            qk_rope_head_dim=2 * odd(r, 3, 6), v_head_dim=odd(r, 5, 14), n_routed_experts=experts, n_group=groups, topk_group=kept,
            num_experts_per_tok=r.randint(2, min(4, kept * experts // groups)), n_shared_experts=r.randint(1, 2),
            routed_scaling_factor=r.choice([1.0, 2.5]), first_k_dense_replace=r.randint(0, 1), norm_topk_prob=r.random() < 0.7,
            num_nextn_predict_layers=0,
        ) | more
    )  # fmt: skip


def kimi_k2(r):
    return deepseek_v3(r, groups=(1,), topk_group=1, routed_scaling_factor=2.827, norm_topk_prob=True)


def fill(model, random):
    """Nothing stays zero or one: norms around 1, sinks of deviation 1.5, biases 0.4, correction biases mostly negative."""
    kept = model.state_dict()
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in kept)]:
            noise = torch.randn(t.shape, generator=random)
            if "norm" in name:
                t.copy_(1 + 0.3 * noise)
            elif name.endswith("sinks"):
                t.copy_(1.5 * noise)
            elif name.endswith("correction_bias"):
                t.copy_(0.3 * noise - 0.5)
            elif name.endswith("bias"):
                t.copy_(0.4 * noise)
            else:
                t.copy_(noise * (0.9 / t.shape[-1] ** 0.5))


def published(config, name):
    """config.json as the published folders spell it."""
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "default":
        config["rope_scaling"] = None
    else:
        if name in ("deepseek_v3", "kimi_k2"):
            rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    if "num_local_experts" in config and name == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    if name in ("deepseek_v3", "kimi_k2"):
        config |= dict(scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1, ep_size=1)
    return config


# ---- the reference ---------------------------------------------------------------------------------------------------


def named_gradients(model, folder):
    """Gradients as save_pretrained names and lays out weights."""
    with torch.no_grad():
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        kept = {n: p.detach().clone() for n, p in model.named_parameters()}
        for n, p in model.named_parameters():
            p.copy_(grads[n])
        model.save_pretrained(folder)
        for n, p in model.named_parameters():
            p.copy_(kept[n])
    held = {k: v for f in pathlib.Path(folder).glob("*.safetensors") for k, v in load_file(f).items()}
    return {k: v for k, v in held.items() if not k.endswith("correction_bias")}


def widened(model):
    """fp64 throughout; to be run under reference.lifted()."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model.double()
    rotary = model.model.rotary_emb
    how = rotary.compute_default_rope_parameters if rotary.rope_type == "default" else ROPE_INIT_FUNCTIONS[rotary.rope_type]
    rotary.inv_freq, rotary.attention_scaling = how(model.config)


def margin(model, layer, logits, ids):
    """Between the last chosen and the first left out; for sigmoid routers of groups too."""
    router = layer.mlp.gate if hasattr(layer.mlp, "gate") else layer.mlp.router
    scores, gap = logits, float("inf")
    if hasattr(router, "e_score_correction_bias"):
        scores = logits.sigmoid() + router.e_score_correction_bias
        groups, kept = model.config.n_group, model.config.topk_group
        by_group = scores.view(len(scores), groups, -1)
        sums = by_group.topk(2, -1).values.sum(-1)
        if kept < groups:
            best = sums.sort(-1, descending=True)
            gap = (best.values[:, kept - 1] - best.values[:, kept]).min().item()
            out = best.indices[:, kept:]
            scores = by_group.scatter(1, out.unsqueeze(-1).expand(-1, -1, by_group.shape[-1]), float("-inf")).flatten(1)
    top, k = scores.sort(-1, descending=True).values, ids.shape[1]
    return min(gap, (top[:, k - 1] - top[:, k]).min().item()) if top.shape[1] > k else gap


def watch(model):
    seen = {"margin": float("inf")}

    def hook(i, layer):
        def see(_, __, out):
            seen[f"experts.{i}"] = out[2].sort(-1).values.clone()
            seen["margin"] = min(seen["margin"], margin(model, layer, out[0].detach(), out[2]))

        return see

    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "experts"):
            router = layer.mlp.gate if hasattr(layer.mlp, "gate") else layer.mlp.router
            router.register_forward_hook(hook(i, layer))
    return seen


def one_batch(model, seen, ids, labels, folder):
    out = model(input_ids=ids, labels=labels, use_cache=False)
    out.loss.backward()
    result = {"logits": out.logits.detach(), "loss": out.loss.detach()} | named_gradients(model, folder)
    model.zero_grad()
    return result | {k: v for k, v in seen.items() if k != "margin"}


def ten_steps(model, ids, labels):
    adamw, losses = reference.optimizer(model), []
    for i in range(len(ids)):
        loss = model(input_ids=ids[i], labels=labels[i], use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        adamw.step()
        adamw.zero_grad()
    return torch.tensor(losses, dtype=torch.float64)


# ---- one model -------------------------------------------------------------------------------------------------------


def compare(got, want, exact, dtype, tolerance):
    """({kind: worst deviation}, [what is wrong], whether any needed more than the tolerance). A tensor of which the reference's own
    fp32 is off from its fp64 `exact` by more than half of the tolerance may be off by three times as much."""
    wrong, worst, loose = [f"{k}: in one of the two only" for k in sorted(got.keys() ^ want.keys())], {}, False
    for name in sorted(got.keys() & want.keys()):
        a, b = got[name], want[name]
        if name.startswith("experts."):
            if not torch.equal(a, b):
                wrong.append(f"{name}: other experts in {int((a != b).any(1).sum())} of {len(b)} rows")
            continue
        off, kind, theirs = reference.deviation(a, b), KINDS.get(name, "gradients"), reference.deviation(b, exact[name])
        worst[kind] = max(worst.get(kind, 0.0), off)
        allowed = tolerance if theirs <= tolerance / 2 else max(tolerance, 3 * theirs)
        loose = loose or off > tolerance
        if a.dtype != dtype or not off <= allowed:
            wrong.append(f"{name}: {a.dtype}, off by {off:.1e}, allowed {allowed:.1e}, largest {b.abs().max().item():.1e}")
    return worst, wrong, loose


def draw(name, r, folder):
    """Saves a model; (model, ids, labels, batches, their labels)."""
    config = globals()[name](r)
    config._attn_implementation = "eager"
    model = getattr(transformers, MODELS.get(name, "DeepseekV3ForCausalLM"))(config)
    model.set_experts_implementation("eager")
    random = torch.Generator().manual_seed(r.randrange(10**9))
    fill(model, random)
    model.save_pretrained(folder)
    with open(folder / "config.json") as f:
        saved = json.load(f)
    if r.random() < 0.5:
        saved = published(saved, name)
    saved["model_type"] = name
    with open(folder / "config.json", "w") as f:
        json.dump(saved, f)
    shapes = [r.randint(2, 3), r.randint(30, 75)], [10, 2, r.randint(12, 20)]
    ids, batches = (torch.randint(config.vocab_size, s, generator=random) for s in shapes)
    labels, scored = ids.clone(), batches.clone()
    labels[torch.rand(labels.shape, generator=random) < 0.15] = -100
    return model.train(), ids, labels, batches, scored


def references(model, ids, labels, batches, scored, folder):
    """({kind: tensors of one batch}, {kind: losses of ten steps}, smallest margin of a choice); the model is in fp64 after it."""
    seen, one, ten = watch(model), {}, {}
    for kind in DTYPES:
        with reference.lifted() if kind == "fp64" else contextlib.nullcontext():
            if kind == "fp64":
                widened(model)
            weights = {k: v.clone() for k, v in model.state_dict().items()}
            one[kind] = one_batch(model, seen, ids, labels, folder / f"grads_{kind}")
            ten[kind] = {"ten losses": ten_steps(model, batches, scored)}
            model.load_state_dict(weights)
    return one, ten, seen["margin"]


def check(name, r, folder):
    """Prints a line; None: a choice was too near to a tie."""
    model, ids, labels, batches, scored = draw(name, r, folder)
    reference.write_ids(folder / "ids.st", ids, labels)
    reference.write_ids(folder / "steps.st", batches, scored)
    one, ten, margin = references(model, ids, labels, batches, scored, folder)
    if margin < CLEAR:
        return None
    wrong, figures = [], []
    for kind, (dtype, tolerance, steps_tolerance) in DTYPES.items():
        got = forward(folder, folder / "ids.st", folder / "out.st", "--grads", "--dtype", kind)
        worst, bad, loose = compare(got, one[kind], one["fp64"], dtype, tolerance)
        got = {"ten losses": forward(folder, folder / "steps.st", folder / "out.st", "--steps", "10", "--dtype", kind)["losses"]}
        steps = compare(got, ten[kind], ten["fp64"], dtype, steps_tolerance)
        wrong += [f"{kind}: {b}" for b in bad + steps[1]]
        figures += [f"{kind} " + ", ".join(f"{k} {v:.1e}" for k, v in (worst | steps[0]).items())]
        if loose or steps[2]:
            figures[-1] += " (transformers' fp32 is as far from its fp64)"
    c = model.config
    facts = f"hidden {c.hidden_size}, {sum(k.startswith('experts.') for k in one['fp64'])} expert layers, {c.rope_parameters['rope_type']}, "
    facts += f"{c.n_group} groups, q_lora {c.q_lora_rank}" if hasattr(c, "n_group") else f"window {getattr(c, 'sliding_window', None)}"
    print(f"{'FAIL' if wrong else 'ok  '} {name}: {facts}: {'; '.join(figures)}; experts {'?' if wrong else 'equal'}", flush=True)
    for w in wrong[:12]:
        print(f"       {w}")
    return not wrong


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 10**6
    print(f"seed {seed}")
    good = []
    for name in FAMILIES:
        r, done = random.Random(f"{seed} {name}"), 0
        while done < count:
            with tempfile.TemporaryDirectory() as tmp:
                result = check(name, r, pathlib.Path(tmp))
            if result is not None:
                good.append(result)
                done += 1
    print(f"{sum(good)} of {len(good)} fresh folders agree with transformers {transformers.__version__}; again with seed {seed}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
