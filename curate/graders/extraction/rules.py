r"""The final answer of a chain of thought: one order of rules, each with a name.

1. Thoughts (`<think>`), what follows an end-of-text token, and further questions that the text runs on into are left
   out.
2. Of all explicit statements the last one wins: a box (`boxed`), `<answer>` and other tags (`tag`, `box-token`), a
   JSON key (`json`), `#### 7` on the last line (`hashes`), `A: 7` (`a-line`), "Final answer: 7" in many spellings and
   languages (`announced`, `heading`), "the answer is 7" (`sentence`), "7 is the answer" (`value-first`), and for
   choices "B is correct" (`letter-first`) and "I choose B" (`chosen`). A sentence whose words cannot be read as an
   answer of the wanted type ("the answer is in the table") is no statement where an earlier one can.
3. Without any statement, only what the type of the answer can read counts: a text that is nothing but an answer
   (`bare`), for choices a letter in front of the last or the first line (`last-line`, `first-line`), a last line
   behind a colon (`last-value`), the last sentence that concludes ("so there are 5", `conclusion`), the last or else
   the first sentence of a text of four at most (`short`), a last sentence that says what the equation before it came
   to (`confirmed`), and the only value in bold (`bold`).
4. Else there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from curate.graders.base import plain
from curate.graders.choice import read_choice
from curate.graders.extraction import spans
from curate.graders.extraction.languages import KNOWN, Words
from curate.graders.extraction.statements import Statement, statements
from curate.graders.number import leading, read_quantity
from curate.graders.yes_no import said
from curate.text import thinking

# Changes when any answer is read or graded otherwise.
VERSION = 2
# Longer texts are no bare answers.
_BARE_WORDS, _BARE_CHARACTERS = 12, 120
_SHORT_SENTENCES = 4
_VALUE_WORDS = 6
# Of a text that says the same over and over, so many places are looked at.
_MAX_STATEMENTS, _MAX_QUESTIONS = 40, 8
_CLAUSE = re.compile(
    r"(?:,|\s[-\u2013\u2014])?\s+(?:because|since|as (?:the|it|there|we|this)|which|where|so that"
    r"|given that|due to|based on|according to|"
    r"considering|when rounded|rounded to|assuming|hence|therefore|so (?:the|it|we)|but|and therefore|not)\b",
    re.IGNORECASE,
)
_REASON = re.compile(r",\s+(?:with|as|because|since)\b", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|therefore|hence|consequently|accordingly|finally|overall|conclusion|conclude|in total|altogether|"
    r"as a result|this means|which means|we get|we find|we have|gives us|total)\b"
    r"|因此|所以|故|综上|综上所述|总共|一共|∴|\\therefore",
    re.IGNORECASE,
)
# What is said when all is said.
_PLEASANTRIES = re.compile(
    r"\b(?:I hope|hope (?:this|that)|let me know|feel free|please (?:let|note)|if you have"
    r"|any (?:other|further|more) questions|happy to|"
    r"thank you|good luck|you're welcome|note that|anything else|do you (?:have|want|need)|would you like)\b",
    re.IGNORECASE,
)
# An announcement or a box whose value never came.
_BEGUN = re.compile(r"\banswer\W*\Z|\\f?boxe?d?\b", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w*])\*\*([^*\n]{1,80})\*\*(?![\w*])")
_LETTER_LINE = re.compile(r"[ \t*_>-]*(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?:[.):]|(?=\s*(?:\Z|[(（]))))")


@dataclass(frozen=True)
class Extracted:
    """An answer as it was said, and the rule that read it."""

    answer: str
    rule: str


@dataclass(frozen=True)
class AnswerWanted:
    """What kind of answer is looked for; without a type anything is one."""

    answer_type: str | None = None
    choices: Sequence[str] = ()
    several: bool = False
    words: Words = KNOWN

    def reads(self, text: str) -> bool:
        """Whether the text can be an answer of this kind."""
        if not plain(text):
            return False
        if self.answer_type == "number":
            return read_quantity(text) is not None
        if self.answer_type == "choice":
            return bool(read_choice(text, self.choices)[0])
        if self.answer_type == "yes-no":
            return bool(said(text, self.words))
        return True


def extract(text: str, wanted: AnswerWanted | None = None) -> Extracted | None:
    """The answer that a response comes to; None when no rule reads one. See the order of rules above."""
    wanted = wanted or AnswerWanted()
    written = thinking.apart(text).text
    text = _first_question(spans.bare(written), wanted)
    found = _stated(_statements(text, wanted), wanted)
    if found is None:
        found = next((each for rule in _FALLBACKS for each in rule(text, wanted)), None)
    return found or _emphasised(written, wanted)


def _emphasised(written: str, wanted: AnswerWanted) -> Extracted | None:
    """The one value that a text prints in bold."""
    if wanted.answer_type not in _READABLE or len(written) > 20_000:
        return None
    said = [plain(each) for each in _BOLD.findall(written)]
    read = {each for each in said if len(each.split()) <= 4 and wanted.reads(each)}
    return Extracted(read.pop(), "bold") if len(read) == 1 else None


def runs_on(text: str, wanted: AnswerWanted | None = None) -> bool:
    """Whether a text states its answer and then goes on with another question."""
    text = spans.bare(thinking.apart(text).text)
    return len(_first_question(text, wanted or AnswerWanted())) < len(text)


def _statements(text: str, wanted: AnswerWanted) -> list[Statement]:
    return statements(text, wanted.words, wanted.answer_type == "choice", wanted.several)


def _first_question(text: str, wanted: AnswerWanted) -> str:
    """The text up to where another question begins, where an answer was stated before it."""
    for place in spans.next_questions(text)[:_MAX_QUESTIONS]:
        head = text[:place]
        if _stated(_statements(head, wanted), wanted) or _bare_head(head, wanted):
            return head
    return text


def _bare_head(head: str, wanted: AnswerWanted) -> bool:
    return len(head.split()) <= _BARE_WORDS and any(_bare(head, wanted))


def _stated(found: Sequence[Statement], wanted: AnswerWanted) -> Extracted | None:
    """The last statement that counts: the last one that can be read, unless a firm one comes after it."""
    unread: Extracted | None = None
    found = found[-_MAX_STATEMENTS:]
    for statement in reversed(found):
        answer = _read(statement.value[: spans.LONGEST], wanted)
        if answer is not None:
            return unread or Extracted(answer, statement.rule)
        if statement.firm and (said_plain := plain(statement.value[: spans.LONGEST])) and unread is None:
            unread = Extracted(said_plain, statement.rule)
    if unread is not None or wanted.answer_type in _READABLE:
        return unread
    return next(
        (
            Extracted(answer, each.rule)
            for each in reversed(found)
            if each.rule != "chosen" and (answer := plain(each.value[: spans.LONGEST]))
        ),
        None,
    )


def _read(value: str, wanted: AnswerWanted) -> str | None:
    """The part of a stated value that can be read: all of it, or up to where it gives its reason."""
    clause = _CLAUSE.split(value, maxsplit=1)[0]
    if wanted.answer_type not in _READABLE:
        # A text has no form that tells where it ends; a reason is no part of it.
        variants = [clause, value]
    else:
        variants = [*(leading(value) if wanted.answer_type == "number" else []), value, clause]
    return next((plain(each) for each in variants if wanted.reads(each)), None)


def _bare(text: str, wanted: AnswerWanted) -> Iterator[Extracted]:
    """The whole text, where it is short and can be read; without a wanted type anything short would be."""
    if wanted.answer_type is None:
        return
    whole = text.strip()
    value = spans.block(whole, 0) if "\n" in whole else whole
    if "\n" in whole and (value is None or len(whole) > len(value) + 40 or len(whole.split()) > len(value.split()) + 3):
        return
    if value is None or len(value) > _BARE_CHARACTERS or len(value.split()) > _BARE_WORDS:
        return
    if _BEGUN.search(value):
        return
    is_answer = wanted.answer_type in _READABLE or not _is_sentence(value)
    if plain(value).strip(":;,.-") and is_answer and wanted.reads(value):
        yield Extracted(plain(value), "bare")


_READABLE = ("number", "choice", "yes-no")


def _is_sentence(text: str) -> bool:
    """Whether a text says something rather than is something: it has a verb that a sentence has."""
    return re.search(r"\b(?:is|are|was|were|do|does|did|have|has|can|cannot|I|we|you|let)\b", text) is not None


def _letter_lines(text: str, wanted: AnswerWanted) -> Iterator[Extracted]:
    """The last or the first line, where it begins with a choice's letter and is not one of a list of choices."""
    if wanted.answer_type != "choice":
        return
    lines = [line for line in text.split("\n") if line.strip()]
    for place, beside, rule in ((-1, -2, "last-line"), (0, 1, "first-line")):
        if len(lines) < 2 and rule == "last-line":
            continue
        if not lines or not _LETTER_LINE.match(lines[place]):
            continue
        if len(lines) > 1 and _LETTER_LINE.match(lines[beside]):
            continue
        if wanted.reads(lines[place]):
            yield Extracted(plain(lines[place]), rule)


def _last_value(text: str, wanted: AnswerWanted) -> Iterator[Extracted]:
    """A value on a line of its own at the end, behind a line that ends with a colon ("That leaves:")."""
    lines = [line for line in text[-2000:].split("\n") if re.search(r"\w", line)]
    if len(lines) < 2 or wanted.answer_type not in _READABLE or len(lines[-1].split()) > _VALUE_WORDS:
        return
    if lines[-2].rstrip(" *_").endswith((":", "：")) and wanted.reads(lines[-1]):
        yield Extracted(plain(lines[-1]), "last-value")


def _confirmed(text: str, wanted: AnswerWanted) -> Iterator[Extracted]:
    """The number of the last sentence, where the equation before it came to it: "4 + 9 = 13. She needs $13."."""
    if wanted.answer_type != "number":
        return
    found = spans.sentences(text[-6000:])
    equations = [each for each in found[:-1] if "=" in each]
    if equations and (last := read_quantity(found[-1])) is not None and last == read_quantity(equations[-1]):
        yield Extracted(plain(found[-1]), "confirmed")


def _conclusion(text: str, wanted: AnswerWanted) -> Iterator[Extracted]:
    """The last sentence that draws a conclusion; of a short text, its last sentence."""
    if wanted.answer_type not in _READABLE or len(text) > 50_000:
        return
    found = [each for each in spans.sentences(text[-6000:]) if re.search(r"\w", each)]
    count = len(found)
    while found and _PLEASANTRIES.search(found[-1]):
        found.pop()
    for sentence in reversed(found[-3:]):
        if _CONCLUDES.search(sentence):
            if answer := _said(sentence, wanted):
                yield Extracted(answer, "conclusion")
            return
    if found and count <= _SHORT_SENTENCES:
        yield from (Extracted(answer, "short") for each in (found[-1], found[0]) if (answer := _said(each, wanted)))


def _said(sentence: str, wanted: AnswerWanted) -> str | None:
    """What can be read of a sentence: all of it, or up to where it gives its reason."""
    return next((plain(each) for each in (sentence, _REASON.split(sentence)[0]) if wanted.reads(each)), None)


_FALLBACKS: tuple[Callable[[str, AnswerWanted], Iterator[Extracted]], ...] = (
    _bare,
    _letter_lines,
    _last_value,
    _conclusion,
    _confirmed,
)
