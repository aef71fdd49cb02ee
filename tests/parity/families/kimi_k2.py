"""Kimi-K2: DeepSeek-V3's architecture under another model_type, with the keys that its published config.json has (issue #4, bar 1)."""

import json

from families.deepseek_v3 import YARN, DeepseekV3, config
from family import Case

KIMI = dict(n_group=1, topk_group=1, routed_scaling_factor=2.827, n_routed_experts=9, num_experts_per_tok=4)
KIMI |= dict(rope_parameters=YARN | dict(rope_theta=5e4, factor=32.0))


class KimiK2(DeepseekV3):
    cases = [
        Case("q_lora", config(**KIMI), seed=14, batch=2, seq=33, ignored=0.2),
        Case(
            "q straight, two groups",
            config(**KIMI | dict(q_lora_rank=None, n_routed_experts=10, n_group=2, topk_group=1, hidden_size=34, kv_lora_rank=15, qk_rope_head_dim=10)),
            seed=3, batch=3, seq=18, idle_expert=6, dtype="bfloat16", shard="40KB",
        ),
    ]  # fmt: skip

    def finish(self, folder, case):
        path = f"{folder}/config.json"
        with open(path) as f:
            c = json.load(f)
        c["rope_scaling"] = c.pop("rope_parameters")
        c["rope_theta"] = c["rope_scaling"].pop("rope_theta")
        c["rope_scaling"]["type"] = c["rope_scaling"].pop("rope_type")
        c["torch_dtype"] = c.pop("dtype")
        c |= dict(model_type="kimi_k2", scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1, ep_size=1, seq_aux=True)
        c |= dict(aux_loss_alpha=0.001)
        with open(path, "w") as f:
            json.dump(c, f)


FAMILY = KimiK2()
