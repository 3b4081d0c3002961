"""Texts of known shape, taken apart: question, choices and answer out of what a dataset wrote as one text. Pure.

A form takes a question text and an answer text, and gives what they hold; RowError `unknown-form` when they do not have
its shape. `FORMS` names them all. Which dataset writes which, see the recipes in `recipes/datasets`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from curate.errors import RowError


@dataclass(frozen=True)
class Parsed:
    """What a form found; no choices where the question is free."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()


Form = Callable[[str, str], Parsed]

# One for each picture.
_PLACEHOLDER = re.compile(r"^(?:\s*<image\s*\d*>)+\s*|(?:\s*<image\s*\d*>)+\s*$")
# The one line that the cauldron's script puts behind a question to ask for a short answer.
_BREVITY = frozenset(
    {
        "Answer briefly.",
        "Be succinct.",
        "Concise answer only.",
        "Ensure brevity in your answer.",
        "Give a very brief answer.",
        "Keep it brief.",
        "Keep it short and to the point.",
        "Make the answer very short.",
        "Offer a terse response.",
        "Offer a very short reply.",
        "Provide a short and direct response.",
        "Provide a succinct answer.",
        "Quick response, please.",
        "Short answer required.",
        "Write a very short answer.",
        "Your answer should be compact.",
        "Your answer should be very brief.",
        "Your response must be concise.",
        "Answer yes or no.",
    }
)
_CAULDRON_CHOICE = re.compile(
    r"(?:Lecture: (?P<lecture>.*?)\n)?Question: (?P<question>.*?)\n(?:Hint: (?P<hint>.*?)\n)?"
    r"Choices:\n(?P<choices>.*)\nAnswer with the letter\.\s*",
    re.DOTALL,
)
_MATHV360K = re.compile(
    r"Hint: .*?\nQuestion: (?P<question>.*?)(?:\nChoices:\n(?P<choices>.*))?", re.DOTALL
)  # fmt: skip
_GEO170K = re.compile(r"(?:.*?\n)??Question:\s*(?P<question>.*?)\nChoices:\n(?P<choices>.*)", re.DOTALL)
_ANSWER_LETTER = re.compile(r"Answer:\s*([A-Z])\b")
_THE_ANSWER_IS = re.compile(r"The answer is\s+(.*?)\.?\s*", re.DOTALL)
_FINAL_NUMBER = re.compile(r"final answer is\s*:?\s*(-?\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_INSTRUCTION = re.compile(
    r"\n+(?:Please\s+)?(?:Answer|Select|Choose|Give|Provide|Solve|Directly|Respond)\b[^\n]*[.:]\s*$", re.IGNORECASE
)
_OPTIONS = re.compile(r"\n?\s*Options:\s*")
_INLINE = re.compile(r"(?:^|\n)\s*\(?([A-Z])[.):]\s+(.*?)(?=\n\s*\(?[A-Z][.):]\s|\Z)", re.DOTALL)


def lettered(text: str) -> tuple[str, ...]:
    """Choices that stand behind their letters A, B, ... in one text: on lines, or parted by commas or semicolons.

    "A. 3; B. 4", "(A) 3 (B) 4", "A: red, B: blue". Empty when the letters are not A, B, ... in order.
    """
    found: list[str] = []
    rest = text.strip()
    while True:
        letter, following = chr(ord("A") + len(found)), chr(ord("B") + len(found))
        head = re.match(rf"\s*\(?{letter}\s*[.):]\s*", rest)
        if head is None:
            return () if rest.strip() else tuple(found)
        rest = rest[head.end() :]
        end = re.search(rf"\s*(?:[;,]\s*|\n\s*|\s)\(?{following}\s*[.):]\s", rest + " ")
        if end is None:
            return (*found, rest.strip().rstrip(";,").strip())
        found.append(rest[: end.start()].strip())
        rest = rest[end.start() :].lstrip(" \t\n;,")


def _choices(text: str) -> tuple[str, ...]:
    choices = lettered(text)
    if len(choices) < 2:
        raise RowError("unknown-form", f"no choices A, B, ... in: {text[:80]}")
    return choices


def _bare(text: str) -> str:
    """Without the image's placeholder at either end."""
    return _PLACEHOLDER.sub("", text).strip()


def _stopless(answer: str) -> str:
    """Without the full stop that the script put behind every answer."""
    answer = answer.strip()
    return answer[:-1].rstrip() if answer.endswith(".") and len(answer) > 1 else answer


def plain(question: str, answer: str) -> Parsed:
    """As it is."""
    return Parsed(question, answer)


def cauldron(question: str, answer: str) -> Parsed:
    """HuggingFaceM4/the_cauldron: lettered choices, or a question with a line that asks for a short answer."""
    asked = _bare(question)
    if match := _CAULDRON_CHOICE.fullmatch(asked):
        letter = _ANSWER_LETTER.search(answer)
        if letter is None:
            raise RowError("unknown-form", f'no "Answer: X" in: {answer[:80]}')
        context = [match[name] for name in ("lecture", "hint") if match[name]]
        return Parsed("\n".join([*context, match["question"]]), letter[1], _choices(match["choices"]))
    lines = asked.splitlines()
    if len(lines) > 1 and lines[-1].strip() in _BREVITY:
        asked = "\n".join(lines[:-1]).strip()
    return Parsed(asked, _stopless(answer))


def geomverse(question: str, answer: str) -> Parsed:
    """GeomVerse in the_cauldron: the answer is a worked solution that ends in the number."""
    found = _FINAL_NUMBER.findall(answer) or _NUMBER.findall(answer)
    if not found:
        raise RowError("unknown-form", f"no number at the end of: {answer[-80:]}")
    return Parsed(_bare(question), found[-1].replace(",", ""))


def mathv360k(question: str, answer: str) -> Parsed:
    """MathV360K (in LLaVA-OneVision-Data): Hint, Question, Choices; "The answer is X"."""
    match, given = _MATHV360K.fullmatch(_bare(question)), _THE_ANSWER_IS.fullmatch(answer.strip())
    if match is None or given is None:
        raise RowError("unknown-form", f"no Hint and Question, or no stated answer: {question[:60]} | {answer[:60]}")
    choices = _choices(match["choices"]) if match["choices"] else ()
    return Parsed(match["question"].strip(), given[1], choices)


def geo170k(question: str, answer: str) -> Parsed:
    """Geo170K, question tuning: an instruction, Question, Choices; a rationale that ends in "Answer:C"."""
    match, letters = _GEO170K.fullmatch(_bare(question)), _ANSWER_LETTER.findall(answer)
    if match is None or not letters:
        raise RowError(
            "unknown-form", f"no Question and Choices, or no answer letter: {question[:60]} | {answer[-60:]}"
        )
    return Parsed(match["question"].strip(), letters[-1], _choices(match["choices"]))


def inline_options(question: str, answer: str) -> Parsed:
    """MMStar: "... Options: A: ..., B: ...", the answer a letter."""
    asked, marker, options = _bare(question).partition("Options:")
    if not marker:
        raise RowError("unknown-form", f'no "Options:" in: {question[-80:]}')
    return Parsed(asked.strip(), answer, _choices(options))


def instructed(question: str, answer: str) -> Parsed:
    """MMPR: an image placeholder, a question (choices may be lettered lines of it), an instruction as its last line."""
    asked = _INSTRUCTION.sub("", _bare(question)).strip()
    first = re.search(r"(?m)^\s*\(?A[.):]\s", asked)
    choices = lettered(asked[first.start() :]) if first else ()
    if first is None or len(choices) < 2:
        return Parsed(asked, answer)
    return Parsed(re.sub(r"\n\s*(?:Choices|Options):\s*$", "", asked[: first.start()]).strip(), answer, choices)


FORMS: dict[str, Form] = {
    "plain": plain,
    "cauldron": cauldron,
    "geomverse": geomverse,
    "mathv360k": mathv360k,
    "geo170k": geo170k,
    "inline-options": inline_options,
    "instructed": instructed,
}
