"""DeepSeek-V3 with its multi-token prediction written down a second time, in double precision straight from a checkpoint folder.

It shares no line with transformers: the lifted reference (reference.py) is checked against it, and for multi-token prediction,
which transformers does not train, it is the reference itself (mtp_parity.py). Differentiable.
"""

import functools
import math

import plain_qwen3
import torch
from plain_qwen3 import load, loss, norm, swiglu

LATENT_EPS = 1e-6  # of the latents' norms, whatever rms_norm_eps says


def mscale(factor, scale):
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def frequencies(rope, dim):
    """([dim / 2] angle a position, what cos and sin are multiplied with): arXiv 2309.00071 for yarn."""
    plain = [rope["rope_theta"] ** (-2 * i / dim) for i in range(dim // 2)]
    if rope.get("rope_type", "default") == "default":
        return plain, 1.0

    def pair_that_turns(times):
        return dim * math.log(rope["original_max_position_embeddings"] / (times * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

    low = max(math.floor(pair_that_turns(rope.get("beta_fast", 32))), 0)
    high = min(math.ceil(pair_that_turns(rope.get("beta_slow", 1))), dim - 1)
    high += 0.001 if low == high else 0
    slow = [min(max((i - low) / (high - low), 0), 1) for i in range(dim // 2)]
    factor, one, all_dims = rope["factor"], rope.get("mscale"), rope.get("mscale_all_dim")
    scale = mscale(factor, one) / mscale(factor, all_dims) if one and all_dims else mscale(factor, 1)
    return [f * (s / factor + 1 - s) for f, s in zip(plain, slow)], scale


def rotate(x, rope):
    """x [seq, dim]: elements 2i and 2i + 1 are turned together by position · frequency."""
    turn, scale = frequencies(rope, x.shape[1])
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] * torch.tensor(turn, dtype=torch.float64)
    a, b = x[:, 0::2], x[:, 1::2]
    return scale * torch.stack([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).flatten(1)


def attention(x, w, c):
    """x [seq, hidden]; a head after the other, a query after the other."""

    def linear(x, name, biased=True):
        return x @ w(f"self_attn.{name}.weight").T + (w(f"self_attn.{name}.bias") if biased and c["attention_bias"] else 0)

    nope, dim, v_dim, rank = c["qk_nope_head_dim"], c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
    rope, heads = c["rope_parameters"], c["num_attention_heads"]
    if c["q_lora_rank"] is None:
        q = linear(x, "q_proj", biased=False)
    else:
        q = linear(norm(linear(x, "q_a_proj"), w("self_attn.q_a_layernorm.weight"), LATENT_EPS), "q_b_proj", biased=False)
    latent = linear(x, "kv_a_proj_with_mqa")
    turned = rotate(latent[:, rank:], rope)
    kv = linear(norm(latent[:, :rank], w("self_attn.kv_a_layernorm.weight"), LATENT_EPS), "kv_b_proj", biased=False)
    yarn = rope.get("rope_type", "default") != "default" and rope.get("mscale_all_dim")
    scale = (mscale(rope["factor"], rope["mscale_all_dim"]) ** 2 if yarn else 1) / math.sqrt(dim)
    out = []
    for h in range(heads):
        mine, ours = q[:, h * dim : (h + 1) * dim], kv[:, h * (nope + v_dim) : (h + 1) * (nope + v_dim)]
        query = torch.cat([mine[:, :nope], rotate(mine[:, nope:], rope)], 1)
        key, value = torch.cat([ours[:, :nope], turned], 1), ours[:, nope:]
        out.append(torch.stack([(query[t] @ key[: t + 1].T * scale).softmax(0) @ value[: t + 1] for t in range(len(x))]))
    return linear(torch.cat(out, -1), "o_proj")


def choose(score, biased, c):
    """The experts of one token, best first: of the groups with the largest sums of their two best, as biased scores go."""
    size = len(score) // c["n_group"]
    groups = [list(range(g * size, (g + 1) * size)) for g in range(c["n_group"])]
    best = sorted(groups, key=lambda g: -sum(sorted((biased[e].item() for e in g), reverse=True)[:2]))
    open_ = [e for g in best[: c["topk_group"]] for e in g]
    return sorted(open_, key=lambda e: -biased[e].item())[: c["num_experts_per_tok"]]


def experts(t, w, c):
    """One token → (its sum over experts and the shared one, the chosen experts)."""
    score = (w("mlp.gate.weight") @ t).sigmoid()
    top = choose(score, score + w("mlp.gate.e_score_correction_bias"), c)
    total = sum(score[e] for e in top) + 1e-20 if c["norm_topk_prob"] else 1
    mixed = sum(score[e] / total * c["routed_scaling_factor"] * swiglu(t, w, f"mlp.experts.{e}.") for e in top)
    return mixed + swiglu(t, w, "mlp.shared_experts."), top


def layer(h, w, c, dense, chosen=None):
    h = h + attention(norm(h, w("input_layernorm.weight"), c["rms_norm_eps"]), w, c)
    x = norm(h, w("post_attention_layernorm.weight"), c["rms_norm_eps"])
    if dense:
        return h + torch.stack([swiglu(t, w, "mlp.") for t in x])
    mixed, top = zip(*(experts(t, w, c) for t in x))
    if chosen is not None:
        chosen.extend(sorted(e) for e in top)
    return h + torch.stack(mixed)


def names_of(weights, index):
    return lambda name: weights[f"model.layers.{index}.{name}"]


def embed(config, weights, row):
    """Looking up the padding token leaves its row of the embedding without a gradient."""
    x, pad = weights["model.embed_tokens.weight"][row], config.get("pad_token_id")
    return x if pad is None else torch.where((row == pad)[:, None], x.detach(), x)


def states(config, weights, row, chosen):
    """What the head sees of one row, [seq, hidden]."""
    h = embed(config, weights, row)
    for i in range(config["num_hidden_layers"]):
        dense = i < config["first_k_dense_replace"]
        h = layer(h, names_of(weights, i), config, dense, None if dense else chosen.setdefault(i, []))
    return norm(h, weights["model.norm.weight"], config["rms_norm_eps"])


def head_of(config, weights):
    return weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]


def forward(config, weights, ids):
    """ids [batch, seq] → (logits [batch, seq, vocab], {layer: chosen experts [batch · seq, top_k], ascending})."""
    chosen = {}
    logits = torch.stack([states(config, weights, row, chosen) @ head_of(config, weights).T for row in ids])
    return logits, {i: torch.tensor(v) for i, v in chosen.items()}


def predictions(config, weights, row):
    """Of each module of multi-token prediction on one row: logits at position i for token i + depth + 1, [seq − depth, vocab].

    arXiv 2412.19437, 2.2, with the order of the published eh_proj (embedding first) and the states that the head sees.
    """
    h, eps, out = states(config, weights, row, {}), config["rms_norm_eps"], []
    for depth in range(1, config["num_nextn_predict_layers"] + 1):
        w = names_of(weights, config["num_hidden_layers"] + depth - 1)
        token = norm(embed(config, weights, row[depth:]), w("enorm.weight"), eps)
        state = norm(h[:-1], w("hnorm.weight"), eps)
        h = layer(torch.cat([token, state], 1) @ w("eh_proj.weight").T, w, config, dense=False)
        h = norm(h, w("shared_head.norm.weight"), eps)
        out.append(h @ head_of(config, weights).T)
    return out


def prediction_loss(config, weights, ids, labels):
    """(Σ over rows, modules and scored targets of −log p, how many they are)."""
    terms = []
    for row, targets in zip(ids, labels):
        for depth, logits in enumerate(predictions(config, weights, row), start=1):
            for i in range(len(row) - depth - 1):
                if targets[i + depth + 1] != -100:
                    terms.append(logits[i].logsumexp(0) - logits[i, targets[i + depth + 1]])
    return sum(terms), len(terms)


def run(folder, ids, labels=None, mtp_weight=0.0):
    """The tensors that `conclave forward --grads [--mtp-weight W]` writes, all fp64."""
    config, weights = load(folder)
    labels = ids if labels is None else labels
    logits, chosen = forward(config, weights, ids)
    value = loss(logits, labels)
    out = {"logits": logits.detach(), "loss": value.detach()} | {f"experts.{k}": v for k, v in chosen.items()}
    if mtp_weight:
        total, count = prediction_loss(config, weights, ids, labels)
        scored = (labels[:, 1:] != -100).sum().item()
        out["mtp_loss"] = (total / count).detach()
        value = value + mtp_weight / config["num_nextn_predict_layers"] * total / scored
    value.backward()
    trained = {k: v for k, v in weights.items() if not k.endswith(("e_score_correction_bias", ".embed_tokens.weight", "shared_head.head.weight"))}
    trained["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"]
    return out | {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in trained.items()}


adamw_losses = functools.partial(plain_qwen3.adamw_losses, forward=forward)
