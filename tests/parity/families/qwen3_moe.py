"""Qwen3-MoE (issue #3, bar 3; issue #4, bar 1)."""

from family import Case, Family


def config(**kw):
    base = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2)
    base |= dict(head_dim=16, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True)
    base |= dict(max_position_embeddings=256, rope_theta=1e4, rms_norm_eps=1e-6, tie_word_embeddings=False, pad_token_id=None)
    return base | kw


class Qwen3Moe(Family):
    model_class, config_class = "Qwen3MoeForCausalLM", "Qwen3MoeConfig"
    plain = "plain_qwen3"
    cases = [
        Case("tied, GQA 4:1", config(tie_word_embeddings=True), seed=7, batch=2, seq=70),
        Case(
            "untied, odd widths",
            config(
                vocab_size=97, hidden_size=52, num_attention_heads=6, num_key_value_heads=3, head_dim=12, num_experts=5,
                moe_intermediate_size=20, rope_theta=5e5, rms_norm_eps=1e-5,
            ),
            seed=16, batch=3, seq=19, ignored=0.2, dtype="bfloat16", shard="30KB",
        ),
        Case(
            "dense layers",
            config(
                hidden_size=32, num_hidden_layers=6, mlp_only_layers=[3], decoder_sparse_step=2, intermediate_size=56, num_experts=6,
                num_attention_heads=4, num_key_value_heads=4, head_dim=8, num_experts_per_tok=3, moe_intermediate_size=24,
            ),
            seed=13, batch=2, seq=33, dtype="float16",
        ),
        Case(
            "norm_topk_prob false",
            config(
                vocab_size=120, hidden_size=48, num_attention_heads=4, num_key_value_heads=1, num_experts=7, num_experts_per_tok=3,
                norm_topk_prob=False, num_hidden_layers=3, tie_word_embeddings=True,
            ),
            seed=2, batch=4, seq=16, ignored=0.1, idle_expert=5, shard="60KB",
        ),
        Case("attention biases", config(attention_bias=True, hidden_size=40, num_attention_heads=3, num_key_value_heads=3), seed=5, batch=2, seq=24),
    ]  # fmt: skip

    def random_case(self, r, name):
        kv, layers, experts = r.choice([1, 2, 3]), r.randint(1, 4), r.randint(1, 9)
        return Case(
            name,
            config(
                vocab_size=r.randint(3, 300), hidden_size=r.randint(2, 40) * r.choice([1, 2]), intermediate_size=r.randint(1, 70),
                num_hidden_layers=layers, num_key_value_heads=kv, num_attention_heads=kv * r.randint(1, 5), head_dim=2 * r.randint(2, 20),
                num_experts=experts, num_experts_per_tok=r.randint(1, experts), moe_intermediate_size=r.randint(2, 40),
                norm_topk_prob=r.random() < 0.5, tie_word_embeddings=r.random() < 0.5, rope_theta=r.choice([1e2, 1e4, 1e6]),
                mlp_only_layers=[n for n in range(layers) if r.random() < 0.2], decoder_sparse_step=r.choice([1, 1, 2]),
                attention_bias=r.random() < 0.3,
            ),
            seed=r.randrange(10**6), scale=r.choice([0.05, 0.1, 0.2]), batch=r.randint(2, 4), seq=r.randint(2, 140), ignored=r.choice([None, 0.3]),
            dtype=r.choice(["float32", "bfloat16", "float16"]), shard=r.choice(["1GB", "20KB"]),
        )  # fmt: skip


FAMILY = Qwen3Moe()
