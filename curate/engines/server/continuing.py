"""Whether a server goes on from the beginning of an answer, or starts the answer anew: found out by asking.

Step labels are the outcomes of answers that go on from a step. A server that starts anew gives every step the value of
the whole problem, and nothing in its answers says so. What shows it is greedy text: asked to go on from the beginning
of what it has just said, a server that goes on says the rest of it. The beginning ends in the middle of a sentence,
where a new answer does not take up.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import Enum

from curate.engines.base import Request, RequestRejected, Sample, Sampling

_TOKENS = 64
# So many characters in common are no chance.
_ALIKE = 12
# For models whose answer to the request itself is too short, or not the same twice.
_COUNTING = "Write the numbers from 1 to 30 as digits, with a comma and a blank between them, and nothing else."
_COUNTED = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1"
_STRANGE = "(17) "

Draw = Callable[[Request], Awaitable[Sample]]


class Verdict(Enum):
    """What a server does with the beginning of an answer."""

    GOES_ON = "goes on from it"
    REPEATS = "repeats it and goes on"
    STARTS_ANEW = "starts the answer anew"
    UNKNOWN = "answers so that it cannot be seen whether it goes on"


async def find_out(draw: Draw, request: Request) -> tuple[Verdict, str]:
    """What the server behind `draw` does with the prefix of requests like this one, and the words that show it.

    RequestRejected when it refuses the request without a prefix: that says nothing about prefixes.
    """
    bare = replace(request, prefix_ids=(), prefix_text="", n=1, sampling=_greedy(request))
    said = (await draw(bare)).text
    beginning = _beginning(said)
    verdict, words = Verdict.UNKNOWN, ""
    try:
        if beginning:
            words = (await draw(replace(bare, prefix_text=beginning))).text
            verdict = judge(beginning, said[len(beginning) :], words)
        if verdict is Verdict.UNKNOWN:
            words = (await draw(replace(bare, prompt=_COUNTING, images=(), prefix_text=_COUNTED))).text
            verdict = judge(_COUNTED, "3, 14, 15", words)
        if verdict is Verdict.REPEATS:
            # A new answer begins with the same words; with these it does not.
            words = (await draw(replace(bare, prefix_text=_STRANGE + beginning))).text
            verdict = Verdict.REPEATS if words.lstrip().startswith(_STRANGE.strip()) else Verdict.STARTS_ANEW
    except RequestRejected as error:
        return Verdict.UNKNOWN, str(error)
    return verdict, " ".join(words.split())[:60]


def judge(beginning: str, rest: str, words: str) -> Verdict:
    """What was done by a server that says `beginning` + `rest` of itself, and `words` when given the beginning.

    REPEATS may be a new answer as well, which has the same words.
    """
    if _alike(rest, beginning):
        return Verdict.UNKNOWN  # it says the same over and over
    if _alike(words, rest):
        return Verdict.GOES_ON
    if words.lstrip().startswith(beginning.strip()):
        return Verdict.REPEATS
    # Perhaps behind a few words of its own.
    return Verdict.STARTS_ANEW if beginning.strip()[:_ALIKE] in words else Verdict.UNKNOWN


def _greedy(request: Request) -> Sampling:
    return replace(request.sampling, temperature=0.0, top_p=1.0, top_k=0, max_tokens=_TOKENS)


def _beginning(said: str) -> str:
    """The first half of a text, up to the end of a word inside a line; "" where there is none."""
    ends = [match.start() for match in re.finditer(r"(?<=\w) (?=\w)", said)]
    return said[: min(ends, key=lambda end: abs(2 * end - len(said)))] if ends else ""


def _alike(one: str, other: str) -> bool:
    """Whether a text begins as the other one does, which may be short."""
    other = other.strip()[:_ALIKE]
    return bool(other) and one.lstrip().startswith(other)
