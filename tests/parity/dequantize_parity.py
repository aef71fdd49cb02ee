"""Dequantizes DIR/ours.safetensors with transformers' own functions and compares every bit with what is in it.

    python tests/parity/dequantize_parity.py DIR

Run by StoredParity in tests/checkpoint/stored_test.cpp, which makes the file. Exit status 0, 1, or 77 where a package is missing.

Where transformers 5.17 leaves the formats' specifications, ours follows those; both are stated here and checked:
- A scale 0xff of MXFP4 is NaN (OCP Microscaling Formats 1.0); transformers takes it for 2^128, so 0 and 0.5 stay finite.
- FP8 blocks are 128 x 128 with smaller ones at the edges (DeepSeek-V3); transformers divides the matrix evenly by the shape of
  the scales, which refuses most ragged edges and reads the others wrongly. So no ragged edge here: tests/checkpoint has them.
"""
import sys

try:
    import torch
    from safetensors.torch import load_file
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    from transformers.integrations.mxfp4 import _convert_moe_packed_tensors
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

DTYPES = {"BFloat16": torch.bfloat16, "Float": torch.float32}


def differing(ours, theirs):
    """Elements whose bits differ, NaN being equal to NaN."""
    bits = torch.int16 if ours.dtype == torch.bfloat16 else torch.int32
    return int(((ours.view(bits) != theirs.view(bits)) & ~(ours.isnan() & theirs.isnan())).sum())


def main(folder):
    file = load_file(f"{folder}/ours.safetensors")
    good = True
    for name, dtype in DTYPES.items():
        ours = file[f"fp8.{name}"]
        theirs = Fp8Dequantize(None)._dequantize_one(file["fp8"], file["fp8_scale_inv"], dtype)
        wrong = differing(ours, theirs)
        print(f"{'ok  ' if wrong == 0 else 'FAIL'} FP8 to {name}: {wrong} of {ours.numel()} differ")
        good = good and wrong == 0

        ours = file[f"fp4.{name}"]
        theirs = _convert_moe_packed_tensors(file["fp4_blocks"], file["fp4_scales"], dtype=dtype).transpose(1, 2).contiguous()
        nan = (file["fp4_scales"] == 255).repeat_interleave(32, dim=-1)
        wrong = differing(ours[~nan], theirs[~nan])
        stated = bool(ours[nan].isnan().all()) and not bool(theirs[nan].isnan().any())
        print(f"{'ok  ' if wrong == 0 and stated else 'FAIL'} MXFP4 to {name}: {wrong} of {int((~nan).sum())} differ; a scale of 0xff is as stated: {stated}")
        good = good and wrong == 0 and stated
    return 0 if good else 1


sys.exit(main(sys.argv[1]))
