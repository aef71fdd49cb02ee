"""Anonymous memory of `conclave forward` on large folders in each published format: at most their size in bf16 plus 0.5 GB.

    python tests/bars/load_memory.py [MODEL[/FORM] ...]

MODEL and FORM as tools/tiny_folder.py has them (published by default; gpt_oss/bf16 is the transposed layout). The folder is made in
TMPDIR with CONCLAVE_PARAMETERS (3e9) of cheap values, one at a time. Uses CONCLAVE_BINARY. Exit status 0 or 1.
"""
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import tiny_folder  # noqa: E402

ALLOWED = 0.5e9
SHARD = 1e9  # bytes
# Parameters an expert layer, about, and what makes it: the number of layers follows.
SIZES = {
    "qwen3_moe": {"hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 64, "num_attention_heads": 16, "head_dim": 128,
                  "num_key_value_heads": 4, "vocab_size": 32000},
    "gpt_oss": {"hidden_size": 2048, "intermediate_size": 2048, "num_local_experts": 24, "num_attention_heads": 32, "head_dim": 64,
                "num_key_value_heads": 8, "vocab_size": 32000},
    "deepseek_v3": {"hidden_size": 2048, "moe_intermediate_size": 768, "n_routed_experts": 64, "num_attention_heads": 16,
                    "num_key_value_heads": 16, "q_lora_rank": 512, "kv_lora_rank": 256, "qk_nope_head_dim": 128,
                    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 4096, "vocab_size": 32000,
                    "num_nextn_predict_layers": 0},
}


class LargeWeights(tiny_folder.Weights):
    """The same names and shapes with values from one short random pattern, written shard by shard."""

    def __init__(self, folder, published):
        super().__init__(0, published)
        self.folder, self.parameters, self.shards, self.places = folder, 0, 0, {}
        self.pattern = torch.randn(65537, generator=torch.Generator().manual_seed(0)) * 0.02

    def put(self, name, tensor):
        self.tensors[name] = tensor
        if sum(t.numel() * t.element_size() for t in self.tensors.values()) > SHARD:
            self.flush()

    def flush(self):
        self.shards += 1
        file = f"model-{self.shards:05}.safetensors"
        save_file(self.tensors, self.folder / file, metadata={"format": "pt"})
        self.places |= dict.fromkeys(self.tensors, file)
        self.tensors.clear()

    def filled(self, shape, dtype):
        n = math.prod(shape)
        pattern = self.pattern.to(dtype)
        return pattern.repeat(n // pattern.numel() + 1)[:n].view(shape)

    def matrix(self, name, *shape):
        self.parameters += math.prod(shape)
        self.put(name, self.filled(shape, torch.bfloat16))

    def vector(self, name, n, mean=0.0, dtype=torch.bfloat16):
        self.parameters += n
        self.put(name, (mean + self.filled((n,), torch.float32)).to(dtype))

    def fp8(self, name, rows, cols):
        if not self.published:
            return self.matrix(name, rows, cols)
        self.parameters += rows * cols
        self.put(name, self.filled((rows, cols), torch.float8_e4m3fn))
        self.put(f"{name}_scale_inv", torch.ones(-(-rows // 128), -(-cols // 128)))

    def mxfp4(self, name, experts, rows, cols):
        if not self.published:
            return self.matrix(name, experts, cols, rows)
        self.parameters += experts * rows * cols
        self.put(f"{name}_blocks", self.filled((experts, rows, cols // 32, 16), torch.float32).mul(1e4).to(torch.int32).to(torch.uint8))
        self.put(f"{name}_scales", torch.full((experts, rows, cols // 32), 120, dtype=torch.uint8))


def make(model, form, folder, wanted):
    """Layers until there are `wanted` parameters; their number."""
    config = tiny_folder.CONFIGS[model] | SIZES[model]
    experts = config.get("num_experts") or config.get("n_routed_experts") or config["num_local_experts"]
    ffn = config.get("moe_intermediate_size", config["intermediate_size"])
    layers = max(2, round(wanted / (3 * config["hidden_size"] * ffn * experts)))
    config["num_hidden_layers"] = layers
    if "layer_types" in config:
        config["layer_types"] = [("sliding_attention", "full_attention")[i % 2] for i in range(layers)]
    if form != "published":
        config.pop("quantization_config", None)
    weights = LargeWeights(folder, form == "published")
    tiny_folder.MAKERS[config["architectures"][0]](weights, config)
    weights.flush()
    (folder / "config.json").write_text(tiny_folder.json.dumps(config))
    index = {"metadata": {}, "weight_map": weights.places}
    (folder / "model.safetensors.index.json").write_text(tiny_folder.json.dumps(index))
    return weights.parameters


def peak_anonymous(command):
    """Largest RssAnon in bytes while the command runs, looked at 500 times a second; its seconds."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        try:
            for line in open(f"/proc/{process.pid}/status"):
                if line.startswith("RssAnon:"):
                    peak = max(peak, 1024 * int(line.split()[1]))
        except OSError:
            pass
        time.sleep(0.002)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
    return peak, time.monotonic() - started


def main():
    wanted = float(os.environ.get("CONCLAVE_PARAMETERS", "3e9"))
    good = True
    for model, form in ((name.split("/") + ["published"])[:2] for name in sys.argv[1:] or ["qwen3_moe", "gpt_oss", "gpt_oss/bf16", "deepseek_v3"]):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="load_memory-"))
        try:
            parameters = make(model, form, folder, wanted)
            save_file({"input_ids": torch.arange(8).view(1, 8)}, folder / "ids.st")
            peak, seconds = peak_anonymous([os.environ["CONCLAVE_BINARY"], "forward", "--model", str(folder), "--ids", str(folder / "ids.st"),
                                            "--out", str(folder / "out.st"), "--dtype", "bf16"])
        finally:
            shutil.rmtree(folder)
        more = peak - 2 * parameters
        fine = more <= ALLOWED
        good = good and fine
        print(f"{'ok  ' if fine else 'FAIL'} {model}/{form}: {parameters / 1e9:.2f} B parameters, {2 * parameters / 1e9:.2f} GB in bf16; "
              f"anonymous memory {peak / 1e9:.2f} GB, {more / 1e9:+.2f} GB (at most +{ALLOWED / 1e9:.1f}); {seconds:.0f} s", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
