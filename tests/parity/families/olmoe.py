"""OLMoE: RMSNorm over whole query and key projections (docs/adding_a_model.md)."""

from family import Case, Family

SMALL = dict(vocab_size=103, hidden_size=48, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6, num_experts=7)
SMALL |= dict(num_experts_per_tok=3, max_position_embeddings=128, pad_token_id=None, eos_token_id=None)
OTHER = dict(hidden_size=72, num_key_value_heads=2, norm_topk_prob=True, tie_word_embeddings=True, num_experts=5)
OTHER |= dict(num_experts_per_tok=2, rope_parameters=dict(rope_type="default", rope_theta=5e4))


class Olmoe(Family):
    model_class, config_class = "OlmoeForCausalLM", "OlmoeConfig"
    cases = [
        Case("as published: every head its own keys", SMALL, seed=1, batch=2, seq=29, ignored=0.2),
        Case("GQA 3:1, renormalised, tied", SMALL | OTHER, seed=11, batch=3, seq=18, idle_expert=3, dtype="bfloat16", shard="40KB"),
    ]


FAMILY = Olmoe()
