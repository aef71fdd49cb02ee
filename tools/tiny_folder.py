#!/usr/bin/env python3
"""Makes a model folder in a published format with tiny random weights, for tests.

    python tools/tiny_folder.py MODEL FOLDER [--form FORM] [--seed N] [--shards N] [--set KEY=VALUE ...]

MODEL is qwen3_moe, gpt_oss, deepseek_v3, kimi_k2 or moonlight. FORM is

    published     names, types, layouts and config.json as the published folder has them: bf16 an expert and matrix (Qwen3,
                  Moonlight), MXFP4 experts (GPT-OSS), FP8 with scales of 128 x 128 blocks (DeepSeek-V3, Kimi-K2)
    bf16          the same values without quantization, in bf16: what is left after the published folder was read and written
    transformers  the same values as transformers' save_pretrained writes them, with its config.json. It leaves multi-token
                  prediction out and knows Kimi-K2 as deepseek_v3.

Equal arguments make equal bytes; all forms of one seed hold the same values. --set changes a key of config.json ("--set
hidden_size=192", values are JSON). --shards cuts the tensors into that many files with an index (published and bf16). Needs torch,
safetensors and, for the form transformers, transformers.
"""
import argparse
import hashlib
import json
import pathlib
import tempfile

import torch
from safetensors.torch import save_file
from tiny_configs import BLOCK, CONFIGS

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


class Weights:
    """Collects tensors by name in the wanted form; each depends on its name and the seed alone."""

    def __init__(self, seed, published):
        self.seed, self.published, self.tensors = seed, published, {}

    def random(self, name, shape):
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))

    def matrix(self, name, *shape):
        self.tensors[name] = (self.random(name, shape) / shape[-1] ** 0.5).bfloat16()

    def vector(self, name, n, mean=0.0, dtype=torch.bfloat16):
        self.tensors[name] = (mean + 0.3 * self.random(name, (n,))).to(dtype)

    def norm(self, name, n):
        self.vector(name, n, mean=1.0)

    def fp8(self, name, rows, cols):
        """F8_E4M3 with an fp32 scale a block: largest element 448. Some blocks are zero; their scale is 1."""
        values = self.random(name, (rows, cols)) / cols**0.5
        if rows > BLOCK and cols > BLOCK:
            values[:BLOCK, :BLOCK] = 0
        down, across = -(-rows // BLOCK), -(-cols // BLOCK)
        padded = torch.zeros(down * BLOCK, across * BLOCK)
        padded[:rows, :cols] = values
        scale = padded.view(down, BLOCK, across, BLOCK).abs().amax((1, 3)) / 448
        scale[scale == 0] = 1
        every = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :cols]
        codes = (values / every).to(torch.float8_e4m3fn)
        if self.published:
            self.tensors[name], self.tensors[f"{name}_scale_inv"] = codes, scale
        else:
            self.tensors[name] = (codes.float() * every).bfloat16()

    def mxfp4(self, name, experts, rows, cols):
        """Matrices [experts, rows, cols] in blocks of 32 columns; in bf16 they are stored [experts, cols, rows]."""
        blocks = (self.random(name, (experts, rows, cols)) / cols**0.5).view(experts, rows, cols // 32, 32)
        exponent = blocks.abs().amax(-1, keepdim=True).log2().floor().clamp(-125, 125) - 2
        scaled = blocks / exponent.exp2()
        codes = (scaled.abs().unsqueeze(-1) - E2M1).abs().argmin(-1) + 8 * (scaled < 0)
        if self.published:
            self.tensors[f"{name}_blocks"] = (codes[..., 0::2] + 16 * codes[..., 1::2]).to(torch.uint8)
            self.tensors[f"{name}_scales"] = (exponent.squeeze(-1) + 127).to(torch.uint8)
        else:
            values = torch.cat((E2M1, -E2M1))[codes] * exponent.exp2()
            self.tensors[name] = values.view(experts, rows, cols).transpose(1, 2).contiguous().bfloat16()


def outer(w, c):
    w.matrix("model.embed_tokens.weight", c["vocab_size"], c["hidden_size"])
    w.norm("model.norm.weight", c["hidden_size"])
    if not c["tie_word_embeddings"]:
        w.matrix("lm_head.weight", c["vocab_size"], c["hidden_size"])


def layer_norms(w, prefix, hidden):
    w.norm(f"{prefix}input_layernorm.weight", hidden)
    w.norm(f"{prefix}post_attention_layernorm.weight", hidden)


def grouped_attention(w, prefix, c, biases):
    hidden, q, kv = c["hidden_size"], c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    for name, rows, cols in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
        w.matrix(f"{prefix}self_attn.{name}_proj.weight", rows, cols)
        if biases:
            w.vector(f"{prefix}self_attn.{name}_proj.bias", rows)


def qwen3_moe(w, c):
    outer(w, c)
    for i in range(c["num_hidden_layers"]):
        p, hidden = f"model.layers.{i}.", c["hidden_size"]
        layer_norms(w, p, hidden)
        grouped_attention(w, p, c, c["attention_bias"])
        w.norm(f"{p}self_attn.q_norm.weight", c["head_dim"])
        w.norm(f"{p}self_attn.k_norm.weight", c["head_dim"])
        if i in c["mlp_only_layers"] or (i + 1) % c["decoder_sparse_step"]:
            swiglu(w.matrix, f"{p}mlp.", hidden, c["intermediate_size"])
            continue
        w.matrix(f"{p}mlp.gate.weight", c["num_experts"], hidden)
        for e in range(c["num_experts"]):
            swiglu(w.matrix, f"{p}mlp.experts.{e}.", hidden, c["moe_intermediate_size"])


def swiglu(matrix, prefix, hidden, ffn):
    matrix(f"{prefix}gate_proj.weight", ffn, hidden)
    matrix(f"{prefix}up_proj.weight", ffn, hidden)
    matrix(f"{prefix}down_proj.weight", hidden, ffn)


def gpt_oss(w, c):
    outer(w, c)
    hidden, ffn, experts = c["hidden_size"], c["intermediate_size"], c["num_local_experts"]
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        layer_norms(w, p, hidden)
        grouped_attention(w, p, c, True)
        w.vector(f"{p}self_attn.sinks", c["num_attention_heads"])
        w.matrix(f"{p}mlp.router.weight", experts, hidden)
        w.vector(f"{p}mlp.router.bias", experts)
        w.mxfp4(f"{p}mlp.experts.gate_up_proj", experts, 2 * ffn, hidden)
        w.mxfp4(f"{p}mlp.experts.down_proj", experts, hidden, ffn)
        for name, n in (("gate_up_proj_bias", 2 * ffn), ("down_proj_bias", hidden)):
            w.matrix(f"{p}mlp.experts.{name}", experts, n)


def deepseek_layer(w, p, c, dense):
    matrix = w.fp8 if "quantization_config" in c else w.matrix
    hidden, heads, rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, rope, v = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    layer_norms(w, p, hidden)
    if c["q_lora_rank"]:
        matrix(f"{p}self_attn.q_a_proj.weight", c["q_lora_rank"], hidden)
        w.norm(f"{p}self_attn.q_a_layernorm.weight", c["q_lora_rank"])
        matrix(f"{p}self_attn.q_b_proj.weight", heads * (nope + rope), c["q_lora_rank"])
    else:
        matrix(f"{p}self_attn.q_proj.weight", heads * (nope + rope), hidden)
    matrix(f"{p}self_attn.kv_a_proj_with_mqa.weight", rank + rope, hidden)
    w.norm(f"{p}self_attn.kv_a_layernorm.weight", rank)
    matrix(f"{p}self_attn.kv_b_proj.weight", heads * (nope + v), rank)
    matrix(f"{p}self_attn.o_proj.weight", hidden, heads * v)
    if dense:
        swiglu(matrix, f"{p}mlp.", hidden, c["intermediate_size"])
        return
    w.matrix(f"{p}mlp.gate.weight", c["n_routed_experts"], hidden)
    w.vector(f"{p}mlp.gate.e_score_correction_bias", c["n_routed_experts"], dtype=torch.float32)
    for e in range(c["n_routed_experts"]):
        swiglu(matrix, f"{p}mlp.experts.{e}.", hidden, c["moe_intermediate_size"])
    swiglu(matrix, f"{p}mlp.shared_experts.", hidden, c["n_shared_experts"] * c["moe_intermediate_size"])


def deepseek_v3(w, c):
    outer(w, c)
    layers, hidden = c["num_hidden_layers"], c["hidden_size"]
    for i in range(layers):
        deepseek_layer(w, f"model.layers.{i}.", c, i < c["first_k_dense_replace"] or i % c["moe_layer_freq"])
    for i in range(layers, layers + c["num_nextn_predict_layers"]):  # multi-token prediction
        p = f"model.layers.{i}."
        deepseek_layer(w, p, c, dense=False)
        w.norm(f"{p}enorm.weight", hidden)
        w.norm(f"{p}hnorm.weight", hidden)
        w.matrix(f"{p}eh_proj.weight", hidden, 2 * hidden)
        w.norm(f"{p}shared_head.norm.weight", hidden)
        w.tensors[f"{p}embed_tokens.weight"] = w.tensors["model.embed_tokens.weight"].clone()
        w.tensors[f"{p}shared_head.head.weight"] = w.tensors["lm_head.weight"].clone()


MAKERS = {"Qwen3MoeForCausalLM": qwen3_moe, "GptOssForCausalLM": gpt_oss, "DeepseekV3ForCausalLM": deepseek_v3}


def write(folder, config, tensors, shards):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, places = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[len(names) * i // shards:len(names) * (i + 1) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= {name: file for name in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def by_transformers(folder, config, tensors):
    """Lets transformers read the bf16 form and write it again."""
    import transformers

    known = {k: v for k, v in config.items() if k != "auto_map"}
    known["model_type"] = known["model_type"].replace("kimi_k2", "deepseek_v3")
    kept = f"model.layers.{config['num_hidden_layers']}."
    with tempfile.TemporaryDirectory() as tmp:
        write(pathlib.Path(tmp), known, {k: v for k, v in tensors.items() if not k.startswith(kept)}, 1)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp, dtype=torch.bfloat16, output_loading_info=True)
    wrong = {k: v for k, v in report.items() if v}
    assert not wrong, wrong
    model.save_pretrained(folder)


def make(model, folder, form="published", seed=0, shards=1, changes=None):
    config = CONFIGS[model] | (changes or {})
    weights = Weights(seed, published=form == "published")
    MAKERS[config["architectures"][0]](weights, config)
    if form != "published":
        config.pop("quantization_config", None)
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = "bfloat16"
    if form == "transformers":
        by_transformers(folder, config, weights.tensors)
    else:
        write(pathlib.Path(folder), config, weights.tensors, shards)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("folder")
    parser.add_argument("--form", choices=("published", "bf16", "transformers"), default="published")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="changes")
    args = parser.parse_args()
    changes = {}
    for change in args.changes:
        key, _, value = change.partition("=")
        changes[key] = json.loads(value)
    make(args.model, args.folder, args.form, args.seed, args.shards, changes)


if __name__ == "__main__":
    main()
