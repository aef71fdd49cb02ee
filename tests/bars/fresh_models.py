"""Random models of the four families for fresh_folders.py: widths that are no powers of two, groups on and off, q_lora on and off, YaRN,
windows shorter than the sequence, sinks and biases that are not zero, correction biases mostly below it."""

import json

import torch
import transformers
from transformers import DeepseekV3Config, GptOssConfig, Qwen3MoeConfig

MODELS = {"qwen3_moe": "Qwen3MoeForCausalLM", "gpt_oss": "GptOssForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
FAMILIES = [*MODELS, "kimi_k2"]


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
    shapes = [r.randint(2, 3), r.randint(30, 75)], [10, 4, r.randint(40, 60)]
    ids, batches = (torch.randint(config.vocab_size, s, generator=random) for s in shapes)
    labels, scored = ids.clone(), batches.clone()
    labels[torch.rand(labels.shape, generator=random) < 0.15] = -100
    return model.train(), ids, labels, batches, scored
