"""The reference: transformers with eager attention and eager experts, on folders it saved itself.

`python reference.py` checks the reference: its fp64 answers, with transformers' casts to fp32 lifted, agree with
plain_qwen3.py to 1e-13. Everything else here is imported by the parity tests.
"""

import contextlib
import importlib
import os
import sys
import tempfile

try:
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
except ImportError as missing:  # exit status 77: skipped
    print(f"skipped: {missing}")
    sys.exit(77)

from family import family, family_of

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
DECAY = 0.1


# ---- folders and batches -------------------------------------------------------------------------------------------


def make_folder(folder, of, case):
    """Saves a random model of the family `of` as a Hugging Face folder. The same case gives the same bytes."""
    random = torch.Generator().manual_seed(case.seed)
    model = getattr(transformers, of.model_class)(getattr(transformers, of.config_class)(**case.config))
    kept = model.state_dict()
    buffers = {n: b for n, b in model.named_buffers() if n in kept}
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *buffers.items()]:
            weight.copy_(of.fill(case, name, torch.randn(weight.shape, generator=random)))
        if case.idle_expert is not None:
            of.make_idle(model, case.idle_expert)
    model.to(getattr(torch, case.dtype))
    for b in buffers.values():  # as published: fp32 in any file
        b.data = b.data.float()
    model.save_pretrained(folder, max_shard_size=case.shard)
    of.finish(folder, case)


def make_batch(case, steps=None):
    """(ids, labels or None): [batch, seq], or shorter [steps, batch, seq]; −100 where `case.ignored` says."""
    random = torch.Generator().manual_seed(case.seed + 1)
    shape = [case.batch, case.seq] if steps is None else [steps, case.batch, min(case.seq, 16)]
    ids = torch.randint(case.config["vocab_size"], shape, generator=random)
    if case.ignored is None:
        return ids, None
    labels = torch.randint(case.config["vocab_size"], shape, generator=random)
    labels[torch.rand(shape, generator=random) < case.ignored] = -100
    labels[..., 1, :] = -100  # a row that is not scored at all
    return ids, labels


def write_ids(path, ids, labels=None):
    save_file({"input_ids": ids.contiguous()} | ({} if labels is None else {"labels": labels.contiguous()}), path)


# ---- the reference's own precision ---------------------------------------------------------------------------------


@contextlib.contextmanager
def lifted():
    """While it holds, what transformers casts to fp32 is cast to fp64: torch.float32 is another name for torch.float64."""
    names = {n: getattr(torch, n) for n in ("float32", "float")}
    methods = {n: getattr(torch.Tensor, n) for n in ("float",)}
    for n in names:
        setattr(torch, n, torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        for n, value in names.items():
            setattr(torch, n, value)
        for n, value in methods.items():
            setattr(torch.Tensor, n, value)
        torch.set_default_dtype(torch.float32)


def load(folder, dtype="float32", attention="eager", experts="eager"):
    """dtype "lifted": doubles; run it under lifted()."""
    width = torch.float64 if dtype == "lifted" else getattr(torch, dtype)
    of = family_of(folder)
    config = getattr(transformers, of.config_class).from_pretrained(folder)
    config.model_type = type(config).model_type  # transformers does not know every one that is published
    model, info = getattr(transformers, of.model_class).from_pretrained(
        folder, config=config, dtype=width, attn_implementation=attention, experts_implementation=experts, output_loading_info=True
    )
    wrong = {k: v for k, v in info.items() if v}
    assert not wrong, f"{folder}: transformers complains: {wrong}"
    if dtype == "lifted":
        with lifted():
            rotary = model.model.rotary_emb
            how = rotary.compute_default_rope_parameters if rotary.rope_type == "default" else ROPE_INIT_FUNCTIONS[rotary.rope_type]
            rotary.inv_freq, rotary.attention_scaling = how(model.config)
            for b in model.buffers():
                b.data = b.data.double() if b.is_floating_point() else b.data
            assert all(t.dtype == torch.float64 for t in [rotary.inv_freq, *model.parameters()])
    return model.train()  # no dropout in these models; eval() would change nothing


def precision(dtype):
    return lifted() if dtype == "lifted" else contextlib.nullcontext()


# ---- what `conclave forward` writes --------------------------------------------------------------------------------


def checkpoint_gradients(of, model):
    """Gradients under the names and shapes of the saved file: transformers holds experts fused, most files do not."""
    out = {}
    for name, weight in model.named_parameters():
        g = torch.zeros_like(weight) if weight.grad is None else weight.grad
        if of.fused_experts:
            out[name] = g
        elif name.endswith("mlp.experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for e, one in enumerate(g):
                out[f"{stem}{e}.gate_proj.weight"], out[f"{stem}{e}.up_proj.weight"] = one.chunk(2)
        elif name.endswith("mlp.experts.down_proj"):
            out |= {f"{name.removesuffix('down_proj')}{e}.down_proj.weight": one for e, one in enumerate(g)}
        else:
            out[name] = g
    return {k: v.clone() for k, v in out.items()}


class Routers:
    """Records, of each MoE layer's last call, the chosen experts and how clear the choice was."""

    def __init__(self, of, model):
        self.of, self.experts, self.margin = of, {}, float("inf")
        for i, layer in enumerate(model.model.layers):
            if hasattr(layer.mlp, "experts"):
                getattr(layer.mlp, of.router).register_forward_hook(lambda router, _, out, i=i: self.see(i, router, *out))

    def see(self, layer, router, logits, scores, ids):
        self.experts[f"experts.{layer}"] = ids.sort(-1).values.clone()
        self.margin = min(self.margin, self.of.margin(router, logits.detach(), ids))


def run(folder, ids, labels=None, dtype="float32"):
    """({name: tensor} as `conclave forward --grads` writes it, smallest routing margin)."""
    of, model = family_of(folder), load(folder, dtype)
    routers = Routers(of, model)
    with precision(dtype):
        out = model(input_ids=ids, labels=ids if labels is None else labels, use_cache=False)
        out.loss.backward()
    wide = torch.float64 if dtype == "lifted" else torch.float32
    result = {"logits": out.logits.detach().to(wide), "loss": out.loss.detach().to(wide)}
    return result | routers.experts | {k: v.to(wide) for k, v in checkpoint_gradients(of, model).items()}, routers.margin


def optimizer(model, **how):
    """AdamW as issue #3 has it: decay on tensors with two or more dims that are neither norms nor biases."""
    groups = {0.0: [], DECAY: []}
    for name, p in model.named_parameters():
        groups[DECAY if p.dim() >= 2 and not name.endswith("bias") else 0.0].append(p)
    return torch.optim.AdamW([dict(params=g, weight_decay=d) for d, g in groups.items()], **ADAMW, **how)


def adamw_losses(folder, ids, labels=None, dtype="float32"):
    """([steps] losses, each before its update, smallest routing margin)."""
    model = load(folder, dtype)
    routers, adamw, losses = Routers(family_of(folder), model), optimizer(model), []
    with precision(dtype):
        for i, batch in enumerate(ids):
            loss = model(input_ids=batch, labels=batch if labels is None else labels[i], use_cache=False).loss
            loss.backward()
            losses.append(loss.item())
            adamw.step()
            adamw.zero_grad()
    return torch.tensor(losses, dtype=torch.float64), routers.margin


def deviation(got, want):
    """max |got − want| / max |want|; 0 for two zeros, inf for anything else than zeros where zeros are due, or for NaN."""
    got, want = got.double(), want.double()
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    top, off = want.abs().max().item(), (got - want).abs().max().item()
    return off / top if top else (0.0 if off == 0 else float("inf"))


# ---- the reference checked -----------------------------------------------------------------------------------------


def check_case(of, case, tolerance=1e-13, steps=3):
    plain_model = importlib.import_module(of.plain)
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, of, case)
        ids, labels = make_batch(case)
        lift, margin = run(folder, ids, labels, "lifted")
        single, _ = run(folder, ids, labels)
        plain = plain_model.run(folder, ids, labels)
        assert lift.keys() == plain.keys(), lift.keys() ^ plain.keys()
        assert all(v.dtype == (torch.int64 if k.startswith("experts.") else torch.float64) for k, v in lift.items())
        worst = max((deviation(lift[k], plain[k]), k) for k in lift)
        noise = max((deviation(single[k], lift[k]), k) for k in lift)
        idle = 0 if case.idle_expert is None else sum((v == case.idle_expert).sum().item() for k, v in lift.items() if k.startswith("experts."))
        ids, labels = make_batch(case, 10)
        losses, step_margin = adamw_losses(folder, ids, labels, "lifted")
        some = None if labels is None else labels[:steps]
        apart = deviation(losses[:steps], plain_model.adamw_losses(folder, ids[:steps], some))
    good = max(worst[0], apart) <= tolerance and idle == 0 and min(margin, step_margin) > 1e-5
    print(
        f"{'ok  ' if good else 'FAIL'} {case.name:24} loss {lift['loss'].item():.4f}  lifted vs plain: {worst[0]:.1e} ({worst[1]}), "
        f"{steps} steps {apart:.1e}  ·  fp32 vs lifted: {noise[0]:.1e} ({noise[1]})  ·  routing margin {min(margin, step_margin):.1e}"
    )
    return good


if __name__ == "__main__":
    qwen = family("qwen3_moe")
    sys.exit(0 if all([check_case(qwen, c) for c in qwen.cases]) else 1)
