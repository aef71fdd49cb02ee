"""GPT-OSS: sinks, alternating windows, biases everywhere, YaRN with an untruncated range (issue #4, bar 1)."""

from family import Case, Family

YARN = dict(rope_type="yarn", rope_theta=1.5e5, factor=32.0, beta_fast=32.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=64)


def config(**kw):
    base = dict(vocab_size=101, hidden_size=40, intermediate_size=36, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2)
    base |= dict(head_dim=12, num_local_experts=6, num_experts_per_tok=3, sliding_window=7, max_position_embeddings=2048, rope_parameters=YARN)
    base |= dict(rms_norm_eps=1e-5, tie_word_embeddings=False, pad_token_id=None, eos_token_id=None)
    return base | kw


class GptOss(Family):
    model_class, config_class = "GptOssForCausalLM", "GptOssConfig"
    router, fused_experts = "router", True
    cases = [
        Case("window 7, gate and up clamped", config(pad_token_id=5), seed=3, batch=2, seq=40, ignored=0.2),
        Case(
            "window 1, two full layers, mscale",
            config(
                hidden_size=52, intermediate_size=28, num_attention_heads=4, num_key_value_heads=4, head_dim=10, num_local_experts=5,
                num_experts_per_tok=2, sliding_window=1, layer_types=["full_attention", "sliding_attention", "full_attention"],
                rope_parameters=YARN | dict(factor=8.0, truncate=True, mscale=1.3, mscale_all_dim=0.6, beta_fast=16.0, beta_slow=2.0),
            ),
            seed=4, batch=3, seq=21, idle_expert=2, dtype="bfloat16", shard="40KB",
        ),
    ]  # fmt: skip

    def fill(self, case, name, noise):
        if name.endswith("sinks"):
            return noise
        if name.endswith("gate_up_proj"):  # wide enough for the clamps at 7 to bite
            return 6 * case.scale * noise
        if name.endswith("bias"):
            return 0.5 * noise
        return super().fill(case, name, noise)

    def make_idle(self, model, expert):
        for layer in model.model.layers:
            layer.mlp.router.bias[expert] = -30.0

    def random_case(self, r, name):
        kv, layers, experts = r.choice([1, 2, 3]), r.randint(1, 4), r.randint(1, 9)
        kinds = ["full_attention", "sliding_attention"]
        return Case(
            name,
            config(
                vocab_size=r.randint(3, 300), hidden_size=r.randint(2, 40) * r.choice([1, 2]), intermediate_size=r.randint(2, 40),
                num_hidden_layers=layers, num_key_value_heads=kv, num_attention_heads=kv * r.randint(1, 5), head_dim=2 * r.randint(2, 20),
                num_local_experts=experts, num_experts_per_tok=r.randint(1, experts), sliding_window=r.randint(1, 40),
                layer_types=[r.choice(kinds) for _ in range(layers)], tie_word_embeddings=r.random() < 0.3,
                rope_parameters=YARN | dict(factor=r.choice([2.0, 16.0, 32.0]), truncate=r.random() < 0.3),
            ),
            seed=r.randrange(10**6), scale=r.choice([0.05, 0.1, 0.2]), batch=r.randint(2, 4), seq=r.randint(2, 100), ignored=r.choice([None, 0.3]),
            dtype=r.choice(["float32", "bfloat16", "float16"]), shard=r.choice(["1GB", "20KB"]),
        )  # fmt: skip


FAMILY = GptOss()
