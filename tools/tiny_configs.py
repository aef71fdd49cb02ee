"""config.json of tiny models, key for key as the published folders have them; for tiny_folder.py."""

BLOCK = 128  # rows and columns of an FP8 block

QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "decoder_sparse_step": 1, "eos_token_id": 2, "head_dim": 12, "hidden_act": "silu", "hidden_size": 40,
    "initializer_range": 0.02, "intermediate_size": 72, "max_position_embeddings": 256, "max_window_layers": 2,
    "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 24, "norm_topk_prob": True,
    "num_attention_heads": 4, "num_experts": 6, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 210,
}

GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "eos_token_id": 2,
    "experts_per_token": 2, "head_dim": 12, "hidden_act": "silu", "hidden_size": 96, "initial_context_length": 32,
    "initializer_range": 0.02, "intermediate_size": 160, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "max_position_embeddings": 256, "model_type": "gpt_oss", "num_attention_heads": 6, "num_experts_per_tok": 2,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "num_local_experts": 5, "output_router_logits": False, "pad_token_id": 3,
    "quantization_config": {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
        "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0, "original_max_position_embeddings": 32,
                     "rope_type": "yarn", "truncate": False},
    "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 7, "swiglu_limit": 7.0, "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0", "use_cache": True, "vocab_size": 210,
}

DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config", "AutoModel": "modeling_deepseek.DeepseekV3Model",
                 "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
    "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 160,
    "initializer_range": 0.02, "intermediate_size": 200, "kv_lora_rank": 40, "max_position_embeddings": 256,
    "model_type": "deepseek_v3", "moe_intermediate_size": 136, "moe_layer_freq": 1, "n_group": 4, "n_routed_experts": 8,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 3,
    "num_key_value_heads": 4, "num_nextn_predict_layers": 1, "q_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "weight_block_size": [BLOCK, BLOCK]},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 8, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 32, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False, "topk_group": 2,
    "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": True, "v_head_dim": 20,
    "vocab_size": 210,
}

KIMI_K2 = DEEPSEEK_V3 | {
    "model_type": "kimi_k2", "aux_loss_alpha": 0.001, "seq_aux": True, "n_group": 1, "topk_group": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_nextn_predict_layers": 0, "rope_theta": 50000.0, "routed_scaling_factor": 2.827,
    "rope_scaling": DEEPSEEK_V3["rope_scaling"] | {"beta_fast": 1.0, "beta_slow": 1.0},
}

MOONLIGHT = {k: v for k, v in KIMI_K2.items() if k not in ("quantization_config", "rope_scaling")} | {
    "model_type": "deepseek_v3", "q_lora_rank": None, "n_shared_experts": 2, "routed_scaling_factor": 2.446,
}

CONFIGS = {"qwen3_moe": QWEN3_MOE, "gpt_oss": GPT_OSS, "deepseek_v3": DEEPSEEK_V3, "kimi_k2": KIMI_K2, "moonlight": MOONLIGHT}
