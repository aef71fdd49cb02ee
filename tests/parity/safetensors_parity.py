"""Reads DIR/ours.safetensors with the safetensors package, checks every byte, and writes DIR/theirs.safetensors from it.

    python tests/parity/safetensors_parity.py DIR

Run by SafetensorsParity in tests/checkpoint/safetensors_test.cpp, which makes the file and compares the answer. Exit status 0, 1,
or 77 where a package is missing.
"""
import sys

try:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U16": torch.uint16, "U32": torch.uint32, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def patterned(shape, dtype, seed):
    """Byte i is 37 i + 11 seed mod 256, as in tests/checkpoint/testing.h."""
    size = torch.empty(0, dtype=dtype).element_size()
    count = torch.Size(shape).numel() * size
    data = ((37 * torch.arange(count) + 11 * seed) % 256).to(torch.uint8)
    if dtype == torch.bool:
        data &= 1
    return data.view(dtype).reshape(shape)


def expected():
    seed, tensors = 0, {}
    for name, dtype in TYPES.items():
        for kind, shape in (("x", [7, 33]), ("scalar", []), ("empty", [3, 0, 2])):
            tensors[f"{kind}.{name}"] = patterned(shape, dtype, seed)
            seed += 1
    tensors['a "name" with \\ / \x01 \n é 中'] = patterned([2], torch.float32, seed)
    return tensors


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def main(folder):
    tensors = {}
    with safe_open(f"{folder}/ours.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}, file.metadata()
        for name in file.keys():
            tensors[name] = file.get_tensor(name)
    want = expected()
    assert tensors.keys() == want.keys(), tensors.keys() ^ want.keys()
    for name, tensor in want.items():
        got = tensors[name]
        assert got.dtype == tensor.dtype and got.shape == tensor.shape, (name, got.dtype, got.shape)
        assert torch.equal(raw(got), raw(tensor)), name
    save_file(tensors, f"{folder}/theirs.safetensors", metadata={"format": "pt"})


main(sys.argv[1])
