"""Writes src/data/nfc_table.cpp from Python's unicodedata: .venv/bin/python tools/make_nfc_table.py > src/data/nfc_table.cpp

Characters that the `tokenizers` package leaves alone are left out: its data is older (Unicode 9), and the ids have to be the same.
"""

import sys
import textwrap
import unicodedata

from tokenizers import normalizers

NFC = normalizers.NFC().normalize_str

HEAD = """// Unicode 9, made by tools/make_nfc_table.py. All numbers are hexadecimal.
#include "data/nfc_table.h"

namespace conclave::data {{
"""


def literal(comment, name, words):
    lines = textwrap.wrap(" ".join(words), 92)
    body = "\n".join(f'    "{line} "' for line in lines)
    return f"{comment}\nconst char* const {name} =\n{body};\n"


def is_known_mark(c):
    """Whether the package orders the mark, seen beside marks of other classes."""
    probes = (f"{c}\u0301", f"a\u0315{c}", f"a\u0327{c}\u0301", f"a{c}\u0323\u0301")
    return all(NFC(p) == unicodedata.normalize("NFC", p) for p in probes)


def main():
    pairs, singles, marks = {}, {}, []
    for c in range(sys.maxunicode + 1):
        if 0xD800 <= c < 0xE000:
            continue
        klass = unicodedata.combining(chr(c)) if is_known_mark(chr(c)) else 0
        if klass and marks and marks[-1][1:] == [c - 1, klass]:
            marks[-1][1] = c
        elif klass:
            marks.append([c, c, klass])
        parts = unicodedata.decomposition(chr(c)).split()
        if not parts or parts[0].startswith("<"):
            continue
        if len(parts) == 1:
            singles[c] = int(parts[0], 16)
        else:
            first, second = (int(p, 16) for p in parts)
            composes = unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(c)
            if composes and NFC(chr(first) + chr(second)) != chr(c):
                continue
            pairs.setdefault(second, []).append(f"{first:X}{'=' if composes else '>'}{c:X}")

    print(HEAD.format())
    words = []
    for second in sorted(pairs):
        words += [f"{second:X}:"] + pairs[second]
    print(literal("// SECOND: then FIRST=WHOLE for a pair and its composition, FIRST>WHOLE if it is only decomposed.",
                  "kNfcPairs", words))
    words, expected = [], None
    for c in sorted(singles):
        words += ([f"{c:X}:"] if c != expected else []) + [f"{singles[c]:X}"]
        expected = c + 1
    print(literal("// CHARACTER: then what it and its successors are replaced by.", "kNfcSingles", words))
    words = [f"{a:X}={k:X}" if a == b else f"{a:X}-{b:X}={k:X}" for a, b, k in marks]
    print(literal("// FROM-TO=CLASS: canonical combining classes that are not 0.", "kNfcMarks", words))
    print("}  // namespace conclave::data")


main()
