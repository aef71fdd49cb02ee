"""DeepSeek-V3: latent attention, YaRN with mscale, groups of experts, correction biases, shared experts (issue #4, bar 1)."""

from family import Case, Family

YARN = dict(rope_type="yarn", rope_theta=1e4, factor=40.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)
YARN |= dict(original_max_position_embeddings=32)


def config(**kw):
    base = dict(vocab_size=107, hidden_size=44, intermediate_size=52, moe_intermediate_size=18, num_hidden_layers=3)
    base |= dict(num_attention_heads=3, num_key_value_heads=3, q_lora_rank=22, kv_lora_rank=14, qk_nope_head_dim=10, qk_rope_head_dim=6)
    base |= dict(v_head_dim=9, n_routed_experts=12, num_experts_per_tok=3, n_group=4, topk_group=2, n_shared_experts=1)
    base |= dict(routed_scaling_factor=2.5, first_k_dense_replace=1, max_position_embeddings=1280, rms_norm_eps=1e-5)
    base |= dict(rope_parameters=YARN, pad_token_id=None, num_nextn_predict_layers=0)
    return base | kw


class DeepseekV3(Family):
    model_class, config_class = "DeepseekV3ForCausalLM", "DeepseekV3Config"
    cases = [
        Case("groups, q_lora", config(), seed=18, batch=2, seq=37, ignored=0.2),
        Case(
            "one group, q straight, two shared",
            config(
                hidden_size=36, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5, q_lora_rank=None, kv_lora_rank=11,
                qk_nope_head_dim=7, qk_rope_head_dim=4, v_head_dim=13, n_routed_experts=7, n_group=1, topk_group=1, n_shared_experts=2,
                num_experts_per_tok=2, moe_intermediate_size=10, norm_topk_prob=False, routed_scaling_factor=1.7, first_k_dense_replace=0,
                rms_norm_eps=1e-3, rope_parameters=YARN | dict(factor=8.0, mscale=0.7, mscale_all_dim=1.3), tie_word_embeddings=True,
            ),
            seed=17, batch=3, seq=21, idle_expert=4, dtype="bfloat16", shard="40KB",
        ),
        Case(
            "rotary as it is, biases, padding",
            config(attention_bias=True, rope_parameters=dict(rope_type="default", rope_theta=5e3), pad_token_id=3, first_k_dense_replace=2),
            seed=10, batch=2, seq=26,
        ),
    ]  # fmt: skip

    def fill(self, case, name, noise):
        if name.endswith("e_score_correction_bias"):  # wide enough for biased scores below 0, also in groups that are kept
            return 0.2 * noise - 0.6
        if name.endswith("bias"):
            return 0.3 * noise
        return super().fill(case, name, noise)

    def make_idle(self, model, expert):
        for layer in model.model.layers[model.config.first_k_dense_replace :]:
            layer.mlp.gate.e_score_correction_bias[expert] = -9.0

    def margin(self, router, logits, ids):
        """Of the groups and of the experts within them, by biased scores."""
        import torch

        scores = logits.sigmoid() + router.e_score_correction_bias
        groups = scores.view(len(scores), router.num_group, -1)
        gap, kept = float("inf"), scores
        if router.topk_group < router.num_group:
            best = groups.topk(2, -1).values.sum(-1).sort(-1, descending=True).values
            gap = (best[:, router.topk_group - 1] - best[:, router.topk_group]).min().item()
            chosen = groups.topk(2, -1).values.sum(-1).topk(router.topk_group, -1).indices
            mask = torch.zeros_like(groups[..., 0]).scatter_(1, chosen, 1).bool().unsqueeze(-1)
            kept = groups.masked_fill(~mask, float("-inf")).view_as(scores)
        return min(gap, super().margin(router, kept, ids))

    def random_case(self, r, name):
        groups, heads, layers = r.choice([1, 2, 4]), r.randint(1, 5), r.randint(1, 4)
        experts, kept = groups * r.randint(2, 4), r.randint(1, groups)
        return Case(
            name,
            config(
                vocab_size=r.randint(3, 300), hidden_size=r.randint(2, 60), intermediate_size=r.randint(1, 60), num_hidden_layers=layers,
                moe_intermediate_size=r.randint(1, 40), num_attention_heads=heads, num_key_value_heads=heads, kv_lora_rank=r.randint(1, 30),
                q_lora_rank=r.choice([None, r.randint(1, 30)]), qk_nope_head_dim=r.randint(1, 20), qk_rope_head_dim=2 * r.randint(1, 8),
                v_head_dim=r.randint(1, 20), n_routed_experts=experts, n_group=groups, topk_group=kept,
                num_experts_per_tok=r.randint(1, kept * experts // groups), n_shared_experts=r.randint(1, 3), norm_topk_prob=r.random() < 0.5,
                first_k_dense_replace=r.randint(0, layers), rms_norm_eps=r.choice([1e-6, 1e-3]), routed_scaling_factor=r.choice([1.0, 2.5]),
                rope_parameters=YARN | dict(factor=r.choice([2.0, 40.0]), mscale_all_dim=r.choice([0.0, 1.0])),
            ),
            seed=r.randrange(10**6), scale=r.choice([0.05, 0.1, 0.2]), batch=r.randint(2, 4), seq=r.randint(2, 100), ignored=r.choice([None, 0.3]),
            dtype=r.choice(["float32", "bfloat16", "float16"]), shard=r.choice(["1GB", "20KB"]),
        )  # fmt: skip


FAMILY = DeepseekV3()
