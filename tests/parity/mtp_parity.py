"""Multi-token prediction of DeepSeek-V3 against plain_deepseek.py: `conclave forward --grads --mtp-weight W`, loss and every
gradient within 1e-10 in fp64 and 1e-5 in fp32 (issue #4). The plain one's predictions are those of transformers' MtpModel, which
drafts with the same modules. Exit status 0, 1, or 77 where transformers is not installed.
"""

import dataclasses
import json
import sys
import tempfile

import plain_deepseek
import reference  # leaves with 77 if transformers is missing
import torch
from families.deepseek_v3 import DeepseekV3, config
from family import Case
from program import conclave, forward
from reference import deviation
from safetensors.torch import load_file, save_file

WEIGHT = 0.3
CASES = [
    Case("one module", config(num_nextn_predict_layers=1), seed=3, batch=2, seq=14, ignored=0.2),
    Case(
        "two modules, tied, padding, q straight",
        config(
            num_nextn_predict_layers=2, tie_word_embeddings=True, q_lora_rank=None, pad_token_id=5, hidden_size=33, n_group=1, topk_group=1,
            first_k_dense_replace=2, n_shared_experts=2, num_hidden_layers=3, rms_norm_eps=1e-3,
        ),
        seed=4, batch=3, seq=9, dtype="bfloat16",
    ),
]  # fmt: skip


def make_folder(folder, case):
    """What transformers saves, and the modules that it leaves out, as the published checkpoint has them."""
    reference.make_folder(folder, DeepseekV3(), case)
    held, c = load_file(f"{folder}/model.safetensors"), case.config
    last, hidden, random = c["num_hidden_layers"], c["hidden_size"], torch.Generator().manual_seed(case.seed)
    for index in range(last, last + c["num_nextn_predict_layers"]):
        shapes = {k.replace(f".{last - 1}.", f".{index}.", 1): v for k, v in held.items() if k.startswith(f"model.layers.{last - 1}.")}
        shapes |= {f"model.layers.{index}.{k}.weight": held["model.norm.weight"] for k in ("enorm", "hnorm", "shared_head.norm")}
        shapes[f"model.layers.{index}.eh_proj.weight"] = torch.zeros(hidden, 2 * hidden, dtype=held["model.norm.weight"].dtype)
        new = {k: DeepseekV3().fill(case, k, torch.randn(v.shape, generator=random)).to(v.dtype) for k, v in shapes.items()}
        embedding = held["model.embed_tokens.weight"]
        new[f"model.layers.{index}.embed_tokens.weight"] = embedding.clone()
        new[f"model.layers.{index}.shared_head.head.weight"] = held.get("lm_head.weight", embedding).clone()
        held |= new
    save_file(held, f"{folder}/model.safetensors", metadata={"format": "pt"})


def drafts_of_transformers(folder, row):
    """What transformers' MtpModel makes of one row, all positions of it, in fp64: as predictions() of the plain one."""
    from transformers.modeling_layers import MtpModel

    with open(f"{folder}/config.json") as f:
        c = json.load(f)
    beyond = range(c["num_hidden_layers"], c["num_hidden_layers"] + c["num_nextn_predict_layers"])
    # transformers knows the modules by the index of the published ones
    reference.transformers.DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{i}\..*" for i in beyond]
    main = reference.load(folder, "lifted").eval()
    mtp = MtpModel.from_pretrained(main).double().eval()
    with reference.lifted(), torch.no_grad():
        mtp.rotary_emb = main.model.rotary_emb
        for layer in mtp.layers:
            layer.mtp_block.self_attn.config._attn_implementation = "eager"
            layer.mtp_block.mlp.experts.config._experts_implementation = "eager"
        h, out = main.model(row[None], use_cache=False).last_hidden_state, []
        for depth, layer in enumerate(mtp.layers, start=1):
            seq = len(row) - depth
            mask = torch.full((seq, seq), float("-inf"), dtype=torch.float64).triu(1)[None, None]
            where = torch.arange(seq)[None]
            token = main.model.embed_tokens(row[None, depth:])
            turn = mtp.rotary_emb(token, position_ids=where)
            h = layer(token, h[:, :-1], position_embeddings=turn, attention_mask=mask, position_ids=where, past_key_values=None)
            out.append(main.lm_head(h)[0])
    return out


def check(case):
    wrong, worst = [], {}
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, case)
        ids, labels = reference.make_batch(case)
        reference.write_ids(f"{folder}/ids.st", ids, labels)
        want = plain_deepseek.run(folder, ids, labels, mtp_weight=WEIGHT)
        for name, tolerance in (("fp64", 1e-10), ("fp32", 1e-5)):
            got = forward(folder, f"{folder}/ids.st", f"{folder}/out.st", "--grads", "--mtp-weight", str(WEIGHT), "--dtype", name)
            wrong += [f"{name}: {k}: in one of the two only" for k in sorted(got.keys() ^ want.keys())]
            off = {k: deviation(got[k], want[k]) for k in got.keys() & want.keys()}
            wrong += [f"{name}: {k}: off by {d:.1e}" for k, d in off.items() if not d <= tolerance]
            worst[name] = max(off.values())
        plain = plain_deepseek.predictions(*plain_deepseek.load(folder), ids[0])
        theirs = drafts_of_transformers(folder, ids[0])
        worst["transformers' drafts"] = max(deviation(a.detach(), b) for a, b in zip(plain, theirs, strict=True))
        if worst["transformers' drafts"] > 1e-12:
            wrong.append("the plain one predicts otherwise than transformers' MtpModel")
        bare = forward(folder, f"{folder}/ids.st", f"{folder}/out.st", "--grads", "--dtype", "fp64")
        main = plain_deepseek.run(folder, ids, labels)
        kept = {k for k in main if not any(k.startswith(f"model.layers.{i}.") for i in range(case.config["num_hidden_layers"], 9))}
        if bare.keys() != kept or max(deviation(bare[k], main[k]) for k in kept) > 1e-10:
            wrong.append("without --mtp-weight the modules are not left out")
    print(f"{'FAIL' if wrong else 'ok  '} {case.name}: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    for w in wrong[:12]:
        print(f"       {w}")
    return not wrong


def refused(what, folder, *args, needle):
    done = conclave("forward", "--model", folder, "--ids", f"{folder}/ids.st", "--out", f"{folder}/out.st", *args)
    good = done.returncode in (1, 2) and needle in done.stderr and done.stderr.count("\n") == 1
    print(f"{'ok  ' if good else 'FAIL'} {what}: {done.stderr.strip()[:300]}")
    return good


def main():
    results = [check(case) for case in CASES]
    flag = ["--grads", "--mtp-weight", "0.3"]
    with tempfile.TemporaryDirectory() as folder:  # as transformers saves it: named in config.json, not in the file
        case = dataclasses.replace(CASES[0], ignored=None)
        reference.make_folder(folder, DeepseekV3(), case)
        reference.write_ids(f"{folder}/ids.st", *reference.make_batch(case))
        forward(folder, f"{folder}/ids.st", f"{folder}/out.st", "--grads")
        results.append(refused("modules that the file lacks", folder, *flag, needle="model.layers.3."))
        results.append(refused("a weight without gradients", folder, *flag[1:], needle="--grads"))
        with open(f"{folder}/config.json") as f:
            c = json.load(f)
        with open(f"{folder}/config.json", "w") as f:
            json.dump(c | dict(num_nextn_predict_layers=0), f)
        results.append(refused("a model without modules", folder, *flag, needle="no modules"))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
