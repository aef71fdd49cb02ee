"""Runs the program under test: the path in CONCLAVE_BINARY, or the release build."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def binary():
    path = os.environ.get("CONCLAVE_BINARY") or ROOT / "build" / "release" / "conclave"
    if not os.access(path, os.X_OK):
        print(f"{path}: no such program; build it (cmake --build build/release) or name it in CONCLAVE_BINARY")
        sys.exit(1)
    return str(path)


def conclave(*args, threads=None, **kw):
    """Runs it to its end and returns the CompletedProcess, output captured as text."""
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    return subprocess.run([binary(), *map(str, args)], capture_output=True, text=True, env=env, cwd=ROOT, **kw)


def forward(folder, ids, out, *args, **kw):
    """`conclave forward` that must succeed; returns what it wrote."""
    from safetensors.torch import load_file

    done = conclave("forward", "--model", folder, "--ids", ids, "--out", out, *args, **kw)
    if done.returncode:
        raise RuntimeError(f"conclave forward {' '.join(map(str, args))}: exit status {done.returncode}: {done.stderr.strip()}")
    return load_file(out)
