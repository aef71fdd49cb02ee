"""Multi-token prediction in `conclave pretrain`: a new model's is trained and saved as published checkpoints have it, gone on from,
resumed, and left out of forward and generate; a folder without its weights goes without it."""

import json
import pathlib
import shutil
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / folder) for folder in ("bars", "parity")]

from program import ROOT, conclave  # noqa: E402
from tiny_run import TinyRun, sets  # noqa: E402

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as missing:  # exit status 77: skipped
    print(f"skipped: {missing}")
    sys.exit(77)

MODEL = dict(architectures=["DeepseekV3ForCausalLM"], vocab_size=320, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
MODEL |= dict(q_lora_rank=12, kv_lora_rank=8, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=6, intermediate_size=40)
MODEL |= dict(first_k_dense_replace=1, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, n_shared_experts=1)
MODEL |= dict(moe_intermediate_size=12, max_position_embeddings=128, num_nextn_predict_layers=1)
MODULE, COPIES = "model.layers.2.", {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
failures = []


def check(what, holds, seen=""):
    print(("ok    " if holds else "FAILED ") + what + ("" if holds else f": {seen}"), flush=True)
    if not holds:
        failures.append(what)


def config_file(folder):
    """A run as a file: model.config is a table."""
    text = {"output": str(folder / "run"), "seed": 3, "threads": 1, "steps": 4, "clip_norm": 1.0, "model": {"config": MODEL}}
    text |= {"data": {"text": {"paths": [str(folder / "text")], "validation_every": 8}, "tokenizer": str(folder / "tokenizer")}}
    text["data"] |= {"seq_len": 32, "cache": str(folder / "cache")}
    text |= {"batch": {"rows": 4, "micro_rows": 2}, "validation": {"every": 0}, "checkpoint": {"every": 2}}
    text["schedule"] = {"kind": "constant", "warmup_steps": 0}
    path = folder / "run.yaml"
    path.write_text(json.dumps(text))  # JSON is YAML
    return path


def metrics(output):
    return [json.loads(line) for line in (pathlib.Path(output) / "metrics.jsonl").read_text().splitlines()]


def main():
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        TinyRun(folder)
        path = config_file(folder)
        done = conclave("pretrain", path)
        check("a new model trains with its module", done.returncode == 0, done.stderr)
        lines = metrics(folder / "run")
        check("mtp_loss in metrics.jsonl falls", lines[-1]["mtp_loss"] < lines[0]["mtp_loss"], lines)
        latest = folder / "run" / "latest"
        saved = load_file(latest / "model.safetensors")
        check("saved as published", {MODULE + k for k in ("enorm.weight", "eh_proj.weight", "mlp.gate.e_score_correction_bias")} <= saved.keys(), sorted(saved))
        check("the copies too", all(torch.equal(saved[MODULE + k], saved[v]) for k, v in COPIES.items()))
        moved = saved[MODULE + "mlp.gate.e_score_correction_bias"]
        check("its correction bias follows its loads", 0 < moved.abs().max() <= 4e-3 + 1e-9, moved)

        again = conclave("pretrain", path, *sets(output=folder / "other", steps=2))
        resumed = conclave("pretrain", path, *sets(output=folder / "other"))
        other = load_file(folder / "other" / "latest" / "model.safetensors")
        same = again.returncode == resumed.returncode == 0 and all(torch.equal(other[k], v) for k, v in saved.items())
        check("resumed: the same bytes", same, again.stderr + resumed.stderr)
        done = conclave("pretrain", path, *sets(output=folder / "other", steps=6, model__mtp_weight=0))
        check("a resume without it is refused", done.returncode == 2 and "num_nextn_predict_layers" in done.stderr, done.stderr)

        going_on = folder / "from.yaml"
        text = json.loads(path.read_text())
        text["model"], text["steps"] = {"from": str(latest)}, 2
        del text["data"]["tokenizer"]
        going_on.write_text(json.dumps(text))
        done = conclave("pretrain", going_on, *sets(output=folder / "more"))
        check("gone on from a folder", done.returncode == 0 and metrics(folder / "more")[0]["mtp_loss"] < lines[0]["mtp_loss"], done.stderr)
        done = conclave("pretrain", going_on, *sets(output=folder / "less", model__mtp_weight=0))
        less, c = load_file(folder / "less" / "latest" / "model.safetensors"), json.loads((folder / "less" / "latest" / "config.json").read_text())
        check("mtp_weight 0 leaves it out", done.returncode == 0 and not any(k.startswith(MODULE) for k in less) and c["num_nextn_predict_layers"] == 0)

        bare = folder / "bare"
        shutil.copytree(latest, bare)
        (bare / "manifest.json").unlink(missing_ok=True)
        save_file({k: v for k, v in saved.items() if not k.startswith(MODULE)}, bare / "model.safetensors", metadata={"format": "pt"})
        done = conclave("pretrain", going_on, *sets(output=folder / "bare_run", model__from=bare))
        quiet = done.returncode == 0 and "mtp_loss" not in metrics(folder / "bare_run")[0]
        check("a folder without its weights goes without it, and says so", quiet and "left out" in done.stderr, done.stderr)
        done = conclave("pretrain", going_on, *sets(output=folder / "bare_run2", model__from=bare, model__mtp_weight=0.1))
        check("unless it is asked for", done.returncode == 2 and MODULE + "eh_proj.weight" in done.stderr, done.stderr)
        done = conclave("pretrain", ROOT / "configs/pretrain/demo.yaml", "--dry-run", *sets(model__mtp_weight=0.1))
        check("a model without modules refuses it", done.returncode == 2 and "no modules" in done.stderr, done.stderr)

        said = conclave("generate", *sets(model=latest, prompt="ba di", max_tokens=5, temperature=0))
        check("generate reads past it", said.returncode == 0, said.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
