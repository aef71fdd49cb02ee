"""OLMoE: RMSNorm over whole query and key projections (docs/adding_a_model.md)."""

from family import Case, Family


def config(**kw):
    base = dict(vocab_size=103, hidden_size=48, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=6)
    base |= dict(num_experts=7, num_experts_per_tok=3, max_position_embeddings=128, rms_norm_eps=1e-5, pad_token_id=None, eos_token_id=None)
    return base | kw


class Olmoe(Family):
    model_class, config_class = "OlmoeForCausalLM", "OlmoeConfig"
    cases = [
        Case("as published: every head its own keys", config(), seed=1, batch=2, seq=29, ignored=0.2),
        Case(
            "GQA 3:1, renormalised, tied",
            config(
                hidden_size=72, num_key_value_heads=2, norm_topk_prob=True, tie_word_embeddings=True, num_experts=5,
                num_experts_per_tok=2, rope_parameters=dict(rope_type="default", rope_theta=5e4),
            ),
            seed=8, batch=3, seq=18, idle_expert=3, dtype="bfloat16", shard="40KB",
        ),
    ]  # fmt: skip


FAMILY = Olmoe()
