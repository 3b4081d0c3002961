"""How published responses are cut into steps.

python benchmarks/steps.py [NAME ...] [--repositories FOLDER] [--mathvision FOLDER] [--read N]

Responses are those of `benchmarks/grading.py`. `--read N` prints the steps of N of them, drawn by seed, for reading.
Counted are cuts inside code, display formulas and TeX environments that close later, found by another way than the
splitter's own. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from itertools import accumulate

import grading

from curate.text import steps, thinking

PAIRS = (("\\[", "\\]"), ("\\begin{", "\\end{"))
TOGGLES = ("```", "$$")


def inside(text: str, place: int) -> bool:
    """Whether a place of a text is inside a block that is closed later."""
    head, tail = text[:place].replace("\\\\", "  "), text[place:].replace("\\\\", "  ")
    if any(head.count(mark) % 2 == 1 and mark in tail for mark in TOGGLES):
        return True
    return any(head.count(opens) > head.count(closes) and closes in tail for opens, closes in PAIRS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    grading.add_sources(parser)
    parser.add_argument("--read", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    for name, stream in grading.chosen(asked).items():
        texts = [(response.file, response.name, thinking.apart(response.text).text) for response in stream]
        for file, row, text in random.Random(asked.seed).sample(texts, min(asked.read, len(texts))):
            pieces = steps.split(text)
            print(f"\n{file} {row}: {len(pieces)}", *(f"| {piece.strip()}" for piece in pieces), sep="\n")
        counts, cuts = Counter[int](), 0
        for _, _, text in texts:
            pieces = steps.split(text)
            counts[len(pieces)] += 1
            cuts += sum(inside(text, place) for place in list(accumulate(map(len, pieces)))[:-1])
        several = sum(count for number, count in counts.items() if number > 1)
        found[name] = {
            "responses": len(texts),
            "share_of_two_or_more": round(several / max(len(texts), 1), 4),
            "cuts_inside": cuts,
            "steps": dict(sorted(counts.items())),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
