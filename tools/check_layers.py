#!/usr/bin/env python3
"""Holds the source to the house's rules (docs/decisions.md) and prints its figures.

Rooms: the table is CMakeLists.txt's conclave_room(NAME USES...) lines; a file of src/NAME may include only rooms named there,
so no two rooms include each other. Headers of src/ take at most <ATen/core/Tensor.h> of libtorch's tensors; the room kernels
takes nothing of libtorch. Sizes: no file over
500 lines, the median under 150. Names: no folder or file whose name could hold anything. Exit status 1 on any breach.
"""

import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LONGEST, MEDIAN = 500, 150
REFUSED_NAMES = {"core", "common", "utils", "helpers", "components", "engine", "manager", "distributed"}
REFUSED_INCLUDES = {"torch/torch.h", "ATen/ATen.h"}
IN_HEADERS = {f"ATen/{name}.h" for name in ("core/Tensor", "Parallel", "OpMathType")}  # of ATen/ and torch/; c10/ is light and free
VERSIONED = "torch/csrc/distributed/"  # changes between libtorch versions: in at most this many files
VERSIONED_FILES = 3
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def room_table():
    """{room: rooms it may include}, from CMakeLists.txt."""
    table = {}
    for kind, words in re.findall(r"^conclave_(room|program)\(([^)]*)\)", (ROOT / "CMakeLists.txt").read_text(), re.M):
        room, *uses = words.split()[kind == "program" :]
        table[room] = set(uses)
    return table


def source_files():
    folders = [ROOT / name for name in ("src", "tests", "bench", "tools", "cmake")]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    return sorted(f for f in files if f.suffix in SUFFIXES or f.name == "CMakeLists.txt")


def check_table(table):
    seen = set()
    for room, uses in table.items():
        for use in sorted(uses - seen):
            yield f"CMakeLists.txt: {room} names {use}, which does not stand above it"
        seen.add(room)


def check_names(path):
    for part in (*path.parts[:-1], path.name.split(".")[0]):
        if part in REFUSED_NAMES:
            yield f"{path}: the name {part} is refused: a line could not know its place there"


def check_includes(path, text, table, graph):
    room = path.parts[1] if path.parts[0] == "src" and len(path.parts) > 2 else None
    if room is not None and room not in table:
        yield f"{path}: src/{room} is no room of CMakeLists.txt"
        return
    for bracket, name in INCLUDE.findall(text):
        target = name.split("/")[0]
        if name in REFUSED_INCLUDES:
            yield f"{path}: <{name}> is refused (10 s of compile a file); include the operators used, <ATen/ops/x.h>"
        if room is None:
            continue
        if path.suffix == ".h" and target in ("ATen", "torch") and name not in IN_HEADERS:
            yield f"{path}: <{name}> in a header: at most <ATen/core/Tensor.h>, the rest belongs into the .cpp"
        if room == "kernels" and target in ("ATen", "torch", "c10"):
            yield f"{path}: <{name}> in kernels, which knows no libtorch"
        if bracket == '"' and target not in table:
            yield f'{path}: "{name}" does not begin with a room'
        elif bracket == '"' and target != room:
            graph.setdefault((room, target), path)
            if target not in table[room]:
                yield f"{path}: {room} may not include {target} ({name})"


def check_pairs(graph):
    for (a, b), path in sorted(graph.items()):
        if a < b and (b, a) in graph:
            yield f"{a} and {b} include each other: {path} and {graph[b, a]}"


def main():
    table, graph, lines, wrong, versioned = room_table(), {}, {}, [], []
    wrong += check_table(table)
    for file in source_files():
        path, text = file.relative_to(ROOT), file.read_text()
        lines[path] = text.count("\n")
        wrong += check_names(path)
        if file.suffix in (".h", ".cpp", ".cu", ".cuh"):
            wrong += check_includes(path, text, table, graph)
            if path.parts[0] == "src" and VERSIONED in text:
                versioned.append(str(path))
    wrong += check_pairs(graph)
    wrong += [f"{p}: {n} lines, at most {LONGEST}" for p, n in lines.items() if n > LONGEST]
    median = statistics.median(lines.values())
    if median >= MEDIAN:
        wrong.append(f"the median file has {median:g} lines, under {MEDIAN} is wanted")
    if len(versioned) > VERSIONED_FILES:
        wrong.append(f"{VERSIONED} is included by {len(versioned)} files, at most {VERSIONED_FILES}: {', '.join(versioned)}")

    longest = max(lines, key=lines.get)
    print(f"{len(lines)} files, {sum(lines.values())} lines, median {median:g}, longest {lines[longest]} ({longest})")
    pairs = sum((b, a) in graph for a, b in graph) // 2
    print(f"{len(table)} rooms, {len(graph)} ways between them, {pairs} two-way pairs")
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
