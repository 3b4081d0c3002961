"""Texts of known shape, taken apart: question, choices and answer out of what a dataset wrote as one text. Pure.

A form takes a question text and an answer text, and gives what they hold; RowError `unknown-form` when they do not have
its shape. `FORMS` names them all. Which dataset writes which, see the recipes in `recipes/datasets`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from curate.errors import RowError
from curate.text.image_marks import bare


@dataclass(frozen=True)
class Parsed:
    """What a form found; no choices where the question is free."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()


Form = Callable[[str, str], Parsed]

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
_CHOICES_FOLLOW = re.compile(r"\b(?:Answer )?(?:Options|Choices)\s*:\s*", re.IGNORECASE)
# What stands behind a letter, each with its wide form.
_KINDS = (".\uff0e", ":\uff1a", ")\uff09", "\u3001")
_FIRST = re.compile(
    rf"\s*(?:[(\[\uff08](?P<bracketed>[Aa])[)\]\uff09]|(?P<plain>[Aa])\s?(?P<kind>[{re.escape(''.join(_KINDS))}]))"
)


def lettered(text: str) -> tuple[str, ...]:
    """Choices that stand behind their letters A, B, ... in one text: on lines, or parted by semicolons, commas, blanks.

    "A. 3; B. 4", "(A) 3 (B) 4", "A: red, B: blue". The parting counts that is the surest of those by which the letters
    are A, B, ... in order, each once. Empty where there is none, so that no choice holds another one.
    """
    found: list[re.Match[str]] = []
    for pattern in _patterns(text):
        marks = list(pattern.finditer(text))
        if _in_order(marks) and len(marks) > max(len(found), 1):
            found = marks
        # A line of its own for each choice is as sure as it gets, unless letters in brackets stand inside of lines.
        if found and "\n" in text.strip() and found[0]["bracketed"] is None:
            break
    if not found:
        return ()
    ends = [mark.start() for mark in found[1:]] + [len(text)]
    choices = [text[mark.end() : end].strip(" \t\r\n;,\uff1b\uff0c") for mark, end in zip(found, ends, strict=True)]
    if not any(choices):
        return tuple(_letter(mark) for mark in found)
    return tuple(choices) if all(choices) else ()


def letters(text: str) -> str:
    """The letters that stand in a text like those of choices, for a message."""
    found = [_letter(mark) for pattern in list(_patterns(text))[-1:] for mark in pattern.finditer(text)]
    return ", ".join(found[:30]) or "without letters"


def _letter(mark: re.Match[str]) -> str:
    return (mark["bracketed"] or mark["plain"]).upper()


def _in_order(marks: Sequence[re.Match[str]]) -> bool:
    return [_letter(mark) for mark in marks] == list(string.ascii_uppercase[: len(marks)])


def _patterns(text: str) -> Iterator[re.Pattern[str]]:
    """How marks of choices can look here, the surest first: all like the first one, then others, too."""
    first = _FIRST.match(text)
    if first is None:
        return
    case = "A-Z" if _letter(first) in text[: first.end()] else "a-z"
    kinds = next((kind for kind in _KINDS if first["kind"] in kind), "") if first["plain"] else ""
    bracketed, plain = rf"[(\[\uff08](?P<bracketed>[{case}])[)\]\uff09]", rf"(?P<plain>[{case}])\s?"
    alike = (
        bracketed + r"(?P<plain>(?!))?" if first["bracketed"] else rf"(?P<bracketed>(?!))?{plain}[{re.escape(kinds)}]"
    )
    every = rf"(?:{bracketed}|{plain}[{re.escape(''.join(_KINDS))}])"
    for mark in (alike, every):
        for before in (r"\n", r"[\n;\uff1b]", r"[\n;\uff1b,\uff0c]", r"[\s;\uff1b,\uff0c]"):
            for behind in (r"(?:\s+|\Z)", r"\s*"):
                yield re.compile(rf"(?:\A|(?<={before}))\s*{mark}[.:]?{behind}")


def _choices(text: str) -> tuple[str, ...]:
    choices = lettered(text)
    if len(choices) < 2:
        raise RowError("unknown-form", f"no choices A, B, ... in: {text[:80]}")
    return choices


def _stopless(answer: str) -> str:
    """Without the full stop that the script put behind every answer."""
    answer = answer.strip()
    return answer[:-1].rstrip() if answer.endswith(".") and len(answer) > 1 else answer


def plain(question: str, answer: str) -> Parsed:
    """Leave the text as it is."""
    return Parsed(question, answer)


def cauldron(question: str, answer: str) -> Parsed:
    """HuggingFaceM4/the_cauldron: lettered choices, or a question with a line that asks for a short answer."""
    asked = bare(question)
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
    return Parsed(bare(question), found[-1].replace(",", ""))


def mathv360k(question: str, answer: str) -> Parsed:
    """MathV360K (in LLaVA-OneVision-Data): Hint, Question, Choices; "The answer is X"."""
    match, given = _MATHV360K.fullmatch(bare(question)), _THE_ANSWER_IS.fullmatch(answer.strip())
    if match is None or given is None:
        raise RowError("unknown-form", f"no Hint and Question, or no stated answer: {question[:60]} | {answer[:60]}")
    choices = _choices(match["choices"]) if match["choices"] else ()
    return Parsed(match["question"].strip(), given[1], choices)


def geo170k(question: str, answer: str) -> Parsed:
    """Geo170K, question tuning: an instruction, Question, Choices; a rationale that ends in "Answer:C"."""
    match, letters = _GEO170K.fullmatch(bare(question)), _ANSWER_LETTER.findall(answer)
    if match is None or not letters:
        raise RowError(
            "unknown-form", f"no Question and Choices, or no answer letter: {question[:60]} | {answer[-60:]}"
        )
    return Parsed(match["question"].strip(), letters[-1], _choices(match["choices"]))


def inline_options(question: str, answer: str) -> Parsed:
    """MMStar and others: "... Options: A: ..., B: ...", "... Answer Choices: (A) ... (B) ...", the answer a letter."""
    whole = bare(question)
    marker = _CHOICES_FOLLOW.search(whole)
    if marker is None:
        raise RowError("unknown-form", f'no "Options:" or "Choices:" in: {question[-80:]}')
    return Parsed(whole[: marker.start()].strip(), answer, _choices(whole[marker.end() :]))


def instructed(question: str, answer: str) -> Parsed:
    """MMPR: an image placeholder, a question (choices may be lettered lines of it), an instruction as its last line."""
    asked = _INSTRUCTION.sub("", bare(question)).strip()
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
