"""`conclave train-tokenizer` and `conclave tokenize` against the `tokenizers` package: the same ids and the same text, for the
trained tokenizer and for the forms of published ones made from it, on text that is meant to be hard."""

import copy
import json
import pathlib
import random
import sys
import tempfile
import unicodedata

import program
from tokenizers import Tokenizer

CL100K = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "1️⃣", "🤷🏿‍♀️"]
SPECIAL = ["<|endoftext|>", "<|endoftext", "<|im_start|>", "<|im_start|>x", "<think>", "</think>", "caf\u00e9!", "cafe\u0301!", "ab", "abc"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b", "\x1c", "\x0b", "\x0c"]


# What PCRE2 10.42 knows is Unicode 14; a Python that knows more cannot say which characters are newer, but it keeps 3.2.
UNICODE = unicodedata if unicodedata.unidata_version <= "14.0.0" else unicodedata.ucd_3_2_0


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": [*steps, byte_level(False)]}


def add(spec, content, special=False, normalized=False):
    known = spec["model"]["vocab"].get(content)
    free = max([len(spec["model"]["vocab"]) - 1] + [t["id"] for t in spec["added_tokens"]]) + 1
    spec["added_tokens"].append({"id": free if known is None else known, "content": content, "single_word": False, "lstrip": False,
                                 "rstrip": False, "normalized": normalized, "special": special})


def variants(trained):
    """Name and tokenizer.json of each form under test."""
    yield "trained", trained

    gpt2 = copy.deepcopy(trained)
    gpt2["pre_tokenizer"] = byte_level(True)
    gpt2["post_processor"] = byte_level(True)
    gpt2["model"]["merges"] = [" ".join(m) for m in gpt2["model"]["merges"]]
    gpt2["model"].update(continuing_subword_prefix="", end_of_word_suffix="", unk_token="<|endoftext|>")
    yield "gpt2", gpt2

    qwen = copy.deepcopy(trained)
    qwen["normalizer"] = {"type": "NFC"}
    add(qwen, "<|im_start|>", special=True)
    add(qwen, "<think>")
    add(qwen, "</think>")
    add(qwen, "cafe\u0301!", normalized=True)
    add(qwen, "ab", normalized=True)
    add(qwen, "abc", normalized=True)
    add(qwen, "the")
    yield "qwen", qwen

    whole = copy.deepcopy(trained)
    whole["pre_tokenizer"] = sequence(split(CL100K))
    whole["model"]["ignore_merges"] = True
    dropped = random.Random(1).sample(range(len(whole["model"]["merges"])), 200)
    whole["model"]["merges"] = [m for i, m in enumerate(whole["model"]["merges"]) if i not in set(dropped)]
    yield "cl100k, words whole", whole

    kept = copy.deepcopy(whole)
    kept["model"]["ignore_merges"] = False
    yield "cl100k, merges dropped", kept

    o200k = copy.deepcopy(trained)
    o200k["pre_tokenizer"] = sequence(split(O200K))
    yield "o200k", o200k

    deepseek = copy.deepcopy(trained)
    deepseek["pre_tokenizer"] = sequence(
        split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"),
        split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"))
    yield "deepseek", deepseek

    removed = copy.deepcopy(trained)
    removed["pre_tokenizer"] = sequence(split(r"\s+", "Removed"), split(r"\p{L}+|\p{N}", "Removed", invert=True))
    yield "removed", removed


def character(rng):
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice(SPACES)
    if kind == 1:
        return rng.choice(EMOJI)
    if kind == 2:
        return chr(rng.randrange(0x4E00, 0x9FFF))
    if kind == 3:
        return chr(rng.choice([rng.randrange(0x300, 0x370), 0x1DC4, 0x20D0, 0x0591, 0x094D, 0x0F71, 0x1D165]))
    if kind == 4:
        return chr(rng.randrange(0xAC00, 0xD7A4)) if rng.random() < 0.5 else chr(rng.randrange(0x1100, 0x1200))
    if kind == 5:
        return rng.choice(SPECIAL)
    if kind == 6:
        while UNICODE.category(c := chr(rng.randrange(0x110000))) in ("Cs", "Cn"):
            pass
        return c
    return chr(rng.randrange(0x20, 0x7F)) if kind == 7 else rng.choice(["'S", "'ll", "don't", " the", "World", "12345", "é", "e\u0301"])


def texts(rng):
    yield ""
    yield from (s * n for s in ("a", " ", "ab", "\n", " \n", "é", "😀", "1", "!", "the ", "\u0301") for n in (1, 2, 47, 48, 49, 50, 3000))
    yield from (a + b + c for a in SPACES for b in SPACES for c in ("", "x", "\n", "!"))
    yield from SPECIAL
    for _ in range(3000):
        yield "".join(character(rng) for _ in range(rng.randrange(1, 60)))


def every_character():
    """Every character that both sides' Unicode data know, in places where its class decides; of large blocks of one kind a few."""
    known = [c for c in map(chr, range(0x110000)) if UNICODE.category(c) not in ("Cs", "Cn")]
    known = [c for c in known if ord(c) % 16 == 0 or not (UNICODE.category(c) == "Co" or "\u3400" <= c <= "\ud7a3" or c > "\U00020000")]
    for i in range(0, len(known), 128):
        yield "".join(f"a{c}1{c} {c}{c}'s{c}\n{c}\u0301" for c in known[i : i + 128])


def id_lists(rng, spec):
    vocab = spec["model"]["vocab"]
    ids = sorted(set(vocab.values()) | {t["id"] for t in spec["added_tokens"]})
    small = [i for t, i in vocab.items() if len(t) == 1]
    yield []
    yield from ([i] for i in ids)
    for _ in range(2000):
        yield [rng.choice(small if rng.random() < 0.7 else ids) for _ in range(rng.randrange(1, 40))]


def compare(folder, name, spec, hard, rng):
    path, lines, out = folder / "tokenizer.json", folder / "in.jsonl", folder / "out.jsonl"
    path.write_text(json.dumps(spec, ensure_ascii=False))
    reference = Tokenizer.from_file(str(path))
    lists = list(id_lists(rng, spec))
    asked = [{"text": t} for t in hard] + [{"ids": i} for i in lists]
    lines.write_text("".join(json.dumps(a, ensure_ascii=rng.random() < 0.5) + "\n" for a in asked))
    done = program.conclave("tokenize", "--tokenizer", path, "--in", lines, "--out", out)
    if done.returncode:
        return [f"{name}: exit status {done.returncode}: {done.stderr.strip()}"]
    with open(out, encoding="utf-8", newline="\n") as f:
        got = [json.loads(line) for line in f]
    if len(got) != len(asked):
        return [f"{name}: {len(asked)} lines in, {len(got)} out"]
    wrong = []
    encoded = reference.encode_batch(hard, add_special_tokens=False)
    wanted = [{"ids": e.ids} for e in encoded] + [{"text": reference.decode(i, skip_special_tokens=False)} for i in lists]
    for question, answer, expected in zip(asked, got, wanted):
        if answer != expected:
            wrong.append(f"{name}: {str(question)[:200]!r}: expected {str(expected)[:200]}, got {str(answer)[:200]}")
    print(f"{name}: {len(asked) - len(wrong)} of {len(asked)} lines equal")
    return wrong


def train(folder):
    """A tokenizer.json of the program's own, from the docstrings and code of Python's library."""
    source = pathlib.Path(random.__file__).parent
    text = folder / "library.txt"
    text.write_text("".join((source / f"{m}.py").read_text("utf-8") for m in ("argparse", "ast", "datetime", "inspect", "pydoc", "typing")))
    config = folder / "tokenizer.yaml"
    config.write_text(f"output: {folder}/trained\ntext: {{paths: [{text}], validation_fraction: 0}}\ntraining: {{vocab_size: 2048}}\n")
    done = program.conclave("train-tokenizer", config)
    if done.returncode:
        sys.exit(f"train-tokenizer: exit status {done.returncode}: {done.stderr.strip()}")
    return json.loads((folder / "trained" / "tokenizer.json").read_text())


def main():
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        trained = train(folder)
        hard, every = list(texts(rng)), list(every_character())
        wrong = []
        for name, spec in variants(trained):
            wrong += compare(folder, name, spec, hard + every, rng)
        from transformers import AutoTokenizer

        auto = AutoTokenizer.from_pretrained(folder / "trained")
        if (len(auto), auto.eos_token) != (2048, "<|endoftext|>"):
            wrong.append(f"transformers: expected 2048 tokens and <|endoftext|>, got {len(auto)} and {auto.eos_token}")
    print("\n".join(wrong[:40]))
    sys.exit(f"{len(wrong)} differences" if wrong else 0)


if __name__ == "__main__":
    main()
