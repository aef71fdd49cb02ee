"""Qwen3-MoE written down a second time, token by token, in double precision straight from a checkpoint folder.

It shares no line with transformers: it is what the lifted reference (reference.py) is checked against. Differentiable.
"""

import glob
import json
import math

import torch
from safetensors.torch import load_file


def load(folder):
    """(config, {checkpoint name: fp64 leaf tensor}) of a folder."""
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    weights = {}
    for path in sorted(glob.glob(f"{folder}/*.safetensors")):
        weights |= {k: v.double().requires_grad_() for k, v in load_file(path).items()}
    return config, weights


def norm(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(x, theta):
    """x [seq, head_dim]: element i and element i + head_dim/2 are turned by position · theta^(−2i/head_dim)."""
    seq, dim = x.shape
    angle = torch.tensor([[p * theta ** (-2 * i / dim) for i in range(dim // 2)] for p in range(seq)], dtype=torch.float64)
    a, b = x[:, : dim // 2], x[:, dim // 2 :]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attention(x, w, c):
    """x [seq, hidden]; a head after the other, a query after the other."""
    dim, group = c["head_dim"], c["num_attention_heads"] // c["num_key_value_heads"]
    theta, eps = c["rope_parameters"]["rope_theta"], c["rms_norm_eps"]

    def projection(name, head):
        rows = slice(head * dim, (head + 1) * dim)
        bias = w(f"self_attn.{name}_proj.bias")[rows] if c["attention_bias"] else 0
        return x @ w(f"self_attn.{name}_proj.weight")[rows].T + bias

    out = []
    for h in range(c["num_attention_heads"]):
        query = rotate(norm(projection("q", h), w("self_attn.q_norm.weight"), eps), theta)
        key = rotate(norm(projection("k", h // group), w("self_attn.k_norm.weight"), eps), theta)
        value = projection("v", h // group)
        out.append(torch.stack([(query[t] @ key[: t + 1].T / math.sqrt(dim)).softmax(0) @ value[: t + 1] for t in range(len(x))]))
    return torch.cat(out, -1) @ w("self_attn.o_proj.weight").T + (w("self_attn.o_proj.bias") if c["attention_bias"] else 0)


def swiglu(x, w, prefix):
    gate = w(prefix + "gate_proj.weight") @ x
    return w(prefix + "down_proj.weight") @ (gate / (1 + (-gate).exp()) * (w(prefix + "up_proj.weight") @ x))


def forward(config, weights, ids):
    """ids [batch, seq] → (logits [batch, seq, vocab], {layer: chosen experts [batch · seq, top_k], ascending})."""
    c, rows, chosen = config, [], {}
    for row in ids:
        h = weights["model.embed_tokens.weight"][row]
        for layer in range(c["num_hidden_layers"]):
            w = lambda name: weights[f"model.layers.{layer}.{name}"]
            h = h + attention(norm(h, w("input_layernorm.weight"), c["rms_norm_eps"]), w, c)
            x = norm(h, w("post_attention_layernorm.weight"), c["rms_norm_eps"])
            if f"model.layers.{layer}.mlp.gate.weight" not in weights:
                h = h + torch.stack([swiglu(t, w, "mlp.") for t in x])
                continue
            mixed = []
            for t in x:
                p = (w("mlp.gate.weight") @ t).softmax(0)
                top = sorted(range(len(p)), key=lambda e: -p[e].item())[: c["num_experts_per_tok"]]
                total = sum(p[e] for e in top) if c["norm_topk_prob"] else 1
                mixed.append(sum(p[e] / total * swiglu(t, w, f"mlp.experts.{e}.") for e in top))
                chosen.setdefault(layer, []).append(sorted(top))
            h = h + torch.stack(mixed)
        head = weights["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
        rows.append(norm(h, weights["model.norm.weight"], c["rms_norm_eps"]) @ head.T)
    return torch.stack(rows), {layer: torch.tensor(v) for layer, v in chosen.items()}


def loss(logits, labels):
    """Mean of −log softmax(logits[t])[labels[t + 1]] over the positions whose label is not −100."""
    terms = [
        logits[b, t].logsumexp(0) - logits[b, t, labels[b, t + 1]]
        for b in range(labels.shape[0])
        for t in range(labels.shape[1] - 1)
        if labels[b, t + 1] != -100
    ]
    return sum(terms) / len(terms)


def run(folder, ids, labels=None):
    """The tensors that `conclave forward --grads` writes, all fp64."""
    config, weights = load(folder)
    logits, chosen = forward(config, weights, ids)
    value = loss(logits, ids if labels is None else labels)
    value.backward()
    out = {"logits": logits.detach(), "loss": value.detach()} | {f"experts.{k}": v for k, v in chosen.items()}
    return out | {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in weights.items()}


def adamw_losses(folder, ids, labels=None, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, decay=0.1, forward=forward):
    """ids [steps, batch, seq] → [steps] losses, each before its update."""
    config, weights = load(folder)
    m, v = ({k: torch.zeros_like(x) for k, x in weights.items()} for _ in range(2))
    losses = []
    for step, batch in enumerate(ids, start=1):
        value = loss(forward(config, weights, batch)[0], batch if labels is None else labels[step - 1])
        value.backward()
        losses.append(value.item())
        with torch.no_grad():
            for k, x in weights.items():
                g = torch.zeros_like(x) if x.grad is None else x.grad
                m[k] = betas[0] * m[k] + (1 - betas[0]) * g
                v[k] = betas[1] * v[k] + (1 - betas[1]) * g * g
                update = m[k] / (1 - betas[0] ** step) / ((v[k] / (1 - betas[1] ** step)).sqrt() + eps)
                x -= lr * (update + (decay if x.dim() >= 2 else 0) * x)
                x.grad = None
    return torch.tensor(losses, dtype=torch.float64)
