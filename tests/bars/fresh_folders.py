"""`conclave forward` on folders that no test made: fresh random models of the four families, drawn from the clock, written by
transformers' own save_pretrained, config.json in either spelling. Logits, loss, chosen experts and every gradient in fp32 (1e-5,
max-norm per tensor) and fp64 (1e-10, casts to fp32 lifted), and ten AdamW steps' losses (2e-6, 1e-10).

    python tests/bars/fresh_folders.py [N [SEED]]      N models a family (2); the seed that is printed repeats a run

Knows nothing of tests/parity/families: a gradient gets its name and its shape in the file from save_pretrained itself, which is
given gradients in place of weights. Exit status 0, 1, or 77 where transformers is not installed.
"""

import collections
import contextlib
import pathlib
import random
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))

import reference  # leaves with 77 if transformers is missing
import torch
import transformers
from fresh_models import FAMILIES, draw
from program import forward
from safetensors.torch import load_file

DTYPES = {"fp32": (torch.float32, 1e-5, 2e-6), "fp64": (torch.float64, 1e-10, 1e-10)}
KINDS = {k: k for k in ("logits", "loss", "ten losses")}
# A draw says something only where transformers' fp32 determines what comes out; else another is made, whatever ours gives:
# - a choice of experts nearer to a tie than CLEAR: fp32 may decide it either way;
# - an expert that no token of a step chose: its row of the router has no gradient, but Qwen3-MoE's softmax over all experts leaves
#   rounding of 1e-9 there in transformers, of which AdamW, dividing by its root mean square + 1e-8, makes a tenth of a whole step;
# - ten losses whose fp32 is off their fp64 by more than DRIFT, a quarter of what is allowed between the two programs: there single
#   gradients lie near 1e-8, where rounding decides how far AdamW goes.
CLEAR, DRIFT = 2e-5, 5e-7


# ---- the reference ---------------------------------------------------------------------------------------------------


def named_gradients(model, folder):
    """Gradients as save_pretrained names and lays out weights."""
    with torch.no_grad():
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        kept = {n: p.detach().clone() for n, p in model.named_parameters()}
        for n, p in model.named_parameters():
            p.copy_(grads[n])
        model.save_pretrained(folder)
        for n, p in model.named_parameters():
            p.copy_(kept[n])
    held = {k: v for f in pathlib.Path(folder).glob("*.safetensors") for k, v in load_file(f).items()}
    return {k: v for k, v in held.items() if not k.endswith("correction_bias")}


def widened(model):
    """fp64 throughout; to be run under reference.lifted()."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model.double()
    rotary = model.model.rotary_emb
    how = rotary.compute_default_rope_parameters if rotary.rope_type == "default" else ROPE_INIT_FUNCTIONS[rotary.rope_type]
    rotary.inv_freq, rotary.attention_scaling = how(model.config)


def margin(model, layer, logits, ids):
    """Between the last chosen and the first left out; for sigmoid routers of groups too."""
    router = layer.mlp.gate if hasattr(layer.mlp, "gate") else layer.mlp.router
    scores, gap = logits, float("inf")
    if hasattr(router, "e_score_correction_bias"):
        scores = logits.sigmoid() + router.e_score_correction_bias
        groups, kept = model.config.n_group, model.config.topk_group
        by_group = scores.view(len(scores), groups, -1)
        sums = by_group.topk(2, -1).values.sum(-1)
        if kept < groups:
            best = sums.sort(-1, descending=True)
            gap = (best.values[:, kept - 1] - best.values[:, kept]).min().item()
            out = best.indices[:, kept:]
            scores = by_group.scatter(1, out.unsqueeze(-1).expand(-1, -1, by_group.shape[-1]), float("-inf")).flatten(1)
    top, k = scores.sort(-1, descending=True).values, ids.shape[1]
    return min(gap, (top[:, k - 1] - top[:, k]).min().item()) if top.shape[1] > k else gap


def watch(model):
    seen = {"margin": float("inf"), "all heard": True}

    def hook(i, layer):
        def see(_, __, out):
            seen[f"experts.{i}"] = out[2].sort(-1).values.clone()
            seen["margin"] = min(seen["margin"], margin(model, layer, out[0].detach(), out[2]))
            seen["all heard"] &= len(out[2].unique()) == out[0].shape[-1]

        return see

    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "experts"):
            router = layer.mlp.gate if hasattr(layer.mlp, "gate") else layer.mlp.router
            router.register_forward_hook(hook(i, layer))
    return seen


def one_batch(model, seen, ids, labels, folder):
    out = model(input_ids=ids, labels=labels, use_cache=False)
    out.loss.backward()
    result = {"logits": out.logits.detach(), "loss": out.loss.detach()} | named_gradients(model, folder)
    model.zero_grad()
    return result | {k: v for k, v in seen.items() if k.startswith("experts.")}


def ten_steps(model, ids, labels):
    adamw, losses = reference.optimizer(model), []
    for i in range(len(ids)):
        loss = model(input_ids=ids[i], labels=labels[i], use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        adamw.step()
        adamw.zero_grad()
    return torch.tensor(losses, dtype=torch.float64)


# ---- one model -------------------------------------------------------------------------------------------------------


def compare(got, want, exact, dtype, tolerance):
    """({kind: worst deviation}, [what is wrong]); beside what is wrong how far the reference's own fp32 is from its fp64 `exact`."""
    wrong, worst = [f"{k}: in one of the two only" for k in sorted(got.keys() ^ want.keys())], {}
    for name in sorted(got.keys() & want.keys()):
        a, b = got[name], want[name]
        if name.startswith("experts."):
            if not torch.equal(a, b):
                wrong.append(f"{name}: other experts in {int((a != b).any(1).sum())} of {len(b)} rows")
            continue
        off, kind, theirs = reference.deviation(a, b), KINDS.get(name, "gradients"), reference.deviation(b, exact[name])
        worst[kind] = max(worst.get(kind, 0.0), off)
        if a.dtype != dtype or not off <= tolerance:
            wrong.append(f"{name}: {a.dtype}, off by {off:.1e}, allowed {tolerance:.1e}; the reference from its fp64 {theirs:.1e}")
    return worst, wrong


def references(model, ids, labels, batches, scored, folder):
    """({kind: tensors of one batch}, {kind: losses of ten steps}, what is not determined, or none); the model is in fp64 after it."""
    seen, one, ten, heard = watch(model), {}, {}, True
    for kind in DTYPES:
        with reference.lifted() if kind == "fp64" else contextlib.nullcontext():
            if kind == "fp64":
                widened(model)
            weights = {k: v.clone() for k, v in model.state_dict().items()}
            one[kind] = one_batch(model, seen, ids, labels, folder / f"grads_{kind}")
            seen["all heard"] = True
            ten[kind] = {"ten losses": ten_steps(model, batches, scored)}
            heard &= seen["all heard"]
            model.load_state_dict(weights)
    drift = reference.deviation(ten["fp32"]["ten losses"], ten["fp64"]["ten losses"])
    why = "a tie" if seen["margin"] < CLEAR else "an idle expert" if not heard else "drift" if drift > DRIFT else None
    return one, ten, why


def check(name, r, folder):
    """Prints a line, true if all agrees; instead of it why a draw says nothing."""
    model, ids, labels, batches, scored = draw(name, r, folder)
    reference.write_ids(folder / "ids.st", ids, labels)
    reference.write_ids(folder / "steps.st", batches, scored)
    one, ten, undetermined = references(model, ids, labels, batches, scored, folder)
    if undetermined:
        return undetermined
    wrong, figures = [], []
    for kind, (dtype, tolerance, steps_tolerance) in DTYPES.items():
        got = forward(folder, folder / "ids.st", folder / "out.st", "--grads", "--dtype", kind)
        worst, bad = compare(got, one[kind], one["fp64"], dtype, tolerance)
        got = {"ten losses": forward(folder, folder / "steps.st", folder / "out.st", "--steps", "10", "--dtype", kind)["losses"]}
        steps = compare(got, ten[kind], ten["fp64"], dtype, steps_tolerance)
        wrong += [f"{kind}: {b}" for b in bad + steps[1]]
        figures += [f"{kind} " + ", ".join(f"{k} {v:.1e}" for k, v in (worst | steps[0]).items())]
    c = model.config
    facts = f"hidden {c.hidden_size}, {sum(k.startswith('experts.') for k in one['fp64'])} expert layers, {c.rope_parameters['rope_type']}, "
    facts += f"{c.n_group} groups, q_lora {c.q_lora_rank}" if hasattr(c, "n_group") else f"window {getattr(c, 'sliding_window', None)}"
    print(f"{'FAIL' if wrong else 'ok  '} {name}: {facts}: {'; '.join(figures)}; experts {'?' if wrong else 'equal'}", flush=True)
    for w in wrong[:12]:
        print(f"       {w}")
    return not wrong


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 10**6
    print(f"seed {seed}")
    good, again = [], collections.Counter()
    for name in FAMILIES:
        r, done = random.Random(f"{seed} {name}"), 0
        while done < count:
            with tempfile.TemporaryDirectory() as tmp:
                result = check(name, r, pathlib.Path(tmp))
            if isinstance(result, str):
                again[result] += 1
            else:
                good.append(result)
                done += 1
    print("drawn again: " + (", ".join(f"{n} for {why}" for why, n in again.items()) or "none"))
    print(f"{sum(good)} of {len(good)} fresh folders agree with transformers {transformers.__version__}; again with seed {seed}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
