"""From a sample of records to the settings of a source: question, answer, choices, images, names, domains. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from curate.discovery import answers, images, stepped
from curate.discovery.findings import Guess
from curate.discovery.names import ANSWER, CHOICES, CONTEXT, DOMAIN, ID, QUESTION, UNIT, WORKED, ranked
from curate.discovery.table import SampledColumn, columns_of, image_kind
from curate.graders.base import folded
from curate.graders.yes_no import infers_yes_no
from curate.recipe.source_sections import FilesSource
from curate.sources.base import Record, SourceRow
from curate.sources.columns import rows

_MOSTLY = 0.9
# A question has at least so many characters in the mean, where its column has another name.
_LEAST_QUESTION = 8
_OPTION_NAME = re.compile(r"(?P<stem>.*?)[ _-]?(?P<mark>[A-Za-z]|\d{1,2})")
_LETTER = re.compile(r"\(?[A-Za-z]\)?")


def guess(records: Sequence[Record], places: Sequence[images.Place] = ()) -> list[Guess]:
    """Guesses for the keys of a source, in the order of a recipe; a null `columns.question` or `columns.answer` that
    is not sure says that none was found.
    """
    columns = columns_of(records)
    shown = images.guess(columns, places)
    taken = _names_in(shown)
    chain = stepped.guess(columns)
    taken |= _names_in(chain)
    free = [column for column in columns if column.name not in taken and column.present]
    return [*_problem(records, free, chain, bool(shown)), *shown, *_name(free), *_domain(free), *chain]


def _names_in(guesses: Sequence[Guess]) -> set[str]:
    found: set[str] = set()
    for guess in guesses:
        values = guess.value if isinstance(guess.value, list) else [guess.value]
        if guess.key.startswith(("columns.", "chain.")):
            found |= {value for value in values if isinstance(value, str)}
    return found


def _problem(
    records: Sequence[Record], columns: Sequence[SampledColumn], chain: Sequence[Guess], shown: bool
) -> list[Guess]:
    """Conversation, or question, answer and choices; `shown` is whether the rows have images."""
    talks = [column for column in columns if column.share(lambda v: bool(stepped.turns(v))) >= _MOSTLY]
    questions = ranked(columns, QUESTION, _asks)
    if talks and not chain and not (questions and ranked(columns, ANSWER[:10], _answers)):
        why = "a list of turns in each row, questions and answers by turns"
        talk = Guess("columns.conversation", talks[0].name, why, len(talks) == 1, [each.name for each in talks[1:]])
        return [talk, *_written(records, {"conversation": talk.value}, answers.TURNS)]
    choices, names = _choices(records, columns)
    question = [] if any(each.key == "columns.question" for each in chain) else _question(columns, names, shown)
    used = names | _names_in(question)
    answer = _answer(records, [each for each in columns if each.name not in used], choices, bool(chain))
    found = [*question, *answer, *choices]
    settings = {each.key.removeprefix("columns."): each.value for each in found if each.key.startswith("columns.")}
    if choices or not settings.get("question") or not settings.get("answer"):
        return [*found, *answers.typed(columns)]
    written = _written(records, settings, answers.COLUMN)
    if any(each.key.startswith("answer_") for each in written):
        # The long texts come to answers.
        found = [
            replace(each, sure=True, why="worked solutions") if each.key == "columns.answer" else each for each in found
        ]
    return [*found, *written, *answers.typed(columns)]


def _written(records: Sequence[Record], columns: dict[str, object], of: str) -> list[Guess]:
    """How questions and answers are written that ingest reads with these columns, without a form."""
    source = FilesSource.model_validate({"kind": "files", "name": "look", "path": "look", "columns": columns})
    found = [row for record in records for row in rows(record, source, 1, None) if isinstance(row, SourceRow)]
    return answers.written([(row.question or "", row.answer or "") for row in found], of)


# --- question


def _asks(column: SampledColumn) -> bool:
    least = 2 if column.plain in QUESTION else _LEAST_QUESTION
    if not column.is_text or column.length < least or column.filled < 0.5:
        return False
    return not _kinds(column) and column.share(lambda v: image_kind(v) is not None) < 0.1


def _kinds(column: SampledColumn) -> bool:
    """Whether a few short values come again and again: kinds of questions, and no questions."""
    return len(column.texts) >= 20 and column.distinct <= 0.1 * len(column.texts) and column.length < 40


def _question(columns: Sequence[SampledColumn], taken: set[str], shown: bool) -> list[Guess]:
    free = [column for column in columns if column.name not in taken]
    known = ranked(free, QUESTION, _asks)
    if known:
        best = next((column for column in known if _holds(column, known[0])), known[0])
        exact = best.plain in QUESTION[:14]
        why = f"by its name; {best.length:.0f} characters in the mean"
        if best is not known[0]:
            why = f"its texts hold those of {known[0].name}"
    else:
        asking = [
            column for column in free if _asks(column) and column.share(lambda v: str(v).rstrip().endswith("?")) > 0.5
        ]
        if not asking:
            others = [column.name for column in free if _asks(column)]
            return [Guess("columns.question", None, "no column looks like a question", False, others)]
        best, exact, known = asking[0], False, asking
        why = "most of its texts end in a question mark"
    others = [column.name for column in known if column is not best]
    found = Guess("columns.question", best.name, why, exact, others)
    # A table of the columns is what an image of it shows.
    beside = [column for column in free if column is not best and not (shown and column.plain == "table")]
    return [_in_context(best, beside, found)]


def _holds(whole: SampledColumn, part: SampledColumn) -> bool:
    """Whether a column's texts hold the other's: a problem, and what it asks at its end."""
    pairs = [
        (a, b) for a, b in zip(whole.values, part.values, strict=True) if isinstance(a, str) and isinstance(b, str)
    ]
    held = sum(len(b) < len(a) and " ".join(b.split()).rstrip("?. ") in " ".join(a.split()) for a, b in pairs)
    return whole is not part and held >= 0.5 * len(part.present) > 0


def _in_context(question: SampledColumn, columns: Sequence[SampledColumn], found: Guess) -> Guess:
    """With what has to be read before the question, as a template; a column of its own of that kind is not sure."""
    before = ranked(columns, CONTEXT, lambda each: each.plain in CONTEXT and each.is_text and not _kinds(each))
    behind = ranked(columns, UNIT, lambda each: each.plain in UNIT and each.is_text)
    if not before and not behind:
        return found
    lines = [f"{{{column.name}}}" for column in before[:2]] + [f"{{{question.name}}}"]
    lines += [f"(Unit: {{{column.name}}})" for column in behind[:1]]
    names = " and ".join(column.name for column in [*before[:2], *behind[:1]])
    why = f"{found.why}; with {names}, which the question may need"
    return Guess(found.key, "\n".join(lines), why, False, [question.name, *found.others])


# --- choices


@dataclass(frozen=True, eq=False)
class _Way:
    """A way to read choices, and what it reads from each record."""

    value: str | list[str]
    form: str
    read: Sequence[Sequence[str]]
    why: str

    @property
    def good(self) -> int:
        """In how many records it finds two and more different choices."""
        return sum(2 <= len(found) <= 26 and len(set(found)) > 1 and not _marks(found) for found in self.read)


def _marks(choices: Sequence[str]) -> bool:
    """Whether these are the letters or numbers of choices, which have their texts elsewhere."""
    return all(
        text.strip("() .") in (string.ascii_uppercase[place], str(place + 1)) for place, text in enumerate(choices)
    )


def _choices(records: Sequence[Record], columns: Sequence[SampledColumn]) -> tuple[list[Guess], set[str]]:
    """The keys for the choices, and the columns that they take up."""
    ways = [way for way in _ways(records, columns) if way.good]
    if not ways:
        return [], set()
    best = max(ways, key=lambda way: way.good)
    taken = set(best.value) if isinstance(best.value, list) else {best.value}
    counts = Counter(len(found) for found in best.read if len(found) > 1)
    sizes = ", ".join(f"{size} in {rows}" for size, rows in sorted(counts.items(), key=lambda each: -each[1])[:4])
    others = [way.value for way in ways if way.value != best.value and not _inside(way.value, best.value)]
    found = [Guess("columns.choices", best.value, f"{best.why}: {sizes} rows", not others, others)]
    if best.form != "list":
        found.append(Guess("choices_form", best.form, f"one text holds them, {best.form}"))
    return found, taken


def _inside(one: str | list[str], other: str | list[str]) -> bool:
    """Whether one is a part of the other: a field of its structs."""
    first, second = (each if isinstance(each, str) else each[0] for each in (one, other))
    return first.startswith(second + ".") or second.startswith(first + ".")


def _ways(records: Sequence[Record], columns: Sequence[SampledColumn]) -> list[_Way]:
    found = []
    named = ranked(columns, CHOICES, lambda each: each.filled >= 0.05)
    within = [each for column in named for each in columns if each.name.startswith(column.name + ".")]
    for column in dict.fromkeys([*named, *within]):
        for form in ("list", "lettered", "commas"):
            if form == "list" or column.is_text:
                way = _Way(column.name, form, _read(records, column.name, form), "by its name")
                if way.good >= 0.5 * len(column.present):
                    found.append(way)
                    break
    for names in _series(columns):
        found.append(_Way(names, "list", _read(records, names, "list"), f"the columns {names[0]} to {names[-1]}"))
    return found


def _read(records: Sequence[Record], choices: str | list[str], form: str) -> list[Sequence[str]]:
    """The choices of each record as ingest reads them."""
    columns = {"question": "", "answer": "", "choices": choices}
    settings = {"kind": "files", "name": "look", "path": "look", "columns": columns, "choices_form": form}
    source = FilesSource.model_validate(settings)
    found: list[Sequence[str]] = []
    for record in records:
        (row,) = rows(record, source, 1, None)
        found.append(row.choices if isinstance(row, SourceRow) else ())
    return found


def _series(columns: Sequence[SampledColumn]) -> list[list[str]]:
    """A, B, C, D; option_1, option_2, ...: columns of texts whose names differ in a letter or number that counts up."""
    groups: dict[str, dict[int, str]] = {}
    for column in columns:
        match = _OPTION_NAME.fullmatch(column.name)
        if match is None or not column.is_text or image_kind(column.present[0]) is not None:
            continue
        stem, mark = match["stem"].lower(), match["mark"]
        if mark.isdigit():
            groups.setdefault(stem + "#", {}).setdefault(int(mark), column.name)
        elif (
            not stem
            or stem[-1] in "_- "
            or any(name.startswith(stem) or stem.startswith(name) for name in (*CHOICES, "op", "opt"))
        ):
            groups.setdefault(stem, {}).setdefault(ord(mark.lower()) - ord("a"), column.name)
    found = []
    for places in groups.values():
        first = min(places)
        run = [places[place] for place in range(first, first + len(places)) if place in places]
        if len(run) == len(places) >= 2 and first in (0, 1):
            found.append(run)
    return found


# --- answer


def _answers(column: SampledColumn) -> bool:
    if not column.present or column.share(lambda v: image_kind(v) is not None) > 0.1:
        return False
    listed = column.share(lambda v: isinstance(v, list) and all(not isinstance(each, list | dict) for each in v))
    return column.is_text or listed >= _MOSTLY


def _answer(
    records: Sequence[Record], columns: Sequence[SampledColumn], choices: Sequence[Guess], has_chain: bool
) -> list[Guess]:
    known = ranked(columns, ANSWER, _answers)
    settings = {guess.key: guess.value for guess in choices}
    read = _read(records, settings["columns.choices"], settings.get("choices_form", "list")) if settings else []
    fits = [(column, how) for column in known if (how := _fit(column, read))] if read else []
    if fits:
        column, form = fits[0]
        why = "a letter or the text of a choice" if form == "text" else "a choice's number"
        others = [each.name for each, _ in fits[1:]]
        found = [Guess("columns.answer", column.name, why, not others or column.plain in ANSWER[:9], others)]
        return [*found, *(_index(column, read) if form == "index" else [])]
    if not known:
        if has_chain:
            return [Guess("columns.answer", None, "the chains come without gold answers")]
        return [
            Guess("columns.answer", None, "no column looks like a gold answer", False, [each.name for each in columns])
        ]
    best = known[0]
    return [_gold(best, [each.name for each in known[1:]]), *_listed(best)]


def _fit(column: SampledColumn, read: Sequence[Sequence[str]]) -> str | None:
    """How a column names one of the choices: as `text` (also a letter), as `index`; null where it does not."""
    pairs = [(str(value).strip(), value, found) for value, found in zip(column.values, read, strict=True)
             if found and isinstance(value, str | int | float) and value == value]  # fmt: skip
    if not pairs:
        return None
    said = sum(
        _LETTER.fullmatch(text) is not None or folded(text) in {folded(each) for each in found}
        for text, _, found in pairs
    )
    index = sum((place := _number(value)) is not None and place <= len(found) for _, value, found in pairs)
    if max(said, index) < _MOSTLY * len(pairs):
        return None
    return "text" if said >= index else "index"


def _number(value: object) -> int | None:
    """The whole number that a cell is, also as a text or a float."""
    text = str(value).strip().removesuffix(".0")
    return int(text) if text.isdecimal() and len(text) < 9 else None


def _index(column: SampledColumn, read: Sequence[Sequence[str]]) -> list[Guess]:
    """That the answers are numbers of choices, and whether these count from 0 or from 1."""
    places = [(place, len(found)) for value, found in zip(column.values, read, strict=True)
              if found and (place := _number(value)) is not None]  # fmt: skip
    form = Guess("answer_form", "index", "numbers of choices")
    if any(place == 0 for place, _ in places):
        return [form]
    if any(place == count for place, count in places):
        return [form, Guess("answer_from", 1, "some are the number of the last choice, none is 0")]
    return [form, Guess("answer_from", 0, "none is 0, and none the number of choices", False, [1])]


def _gold(column: SampledColumn, others: Sequence[str]) -> Guess:
    words = sum(len(text.split()) for text in column.texts) / max(1, len(column.texts))
    why = f"by its name; {words:.0f} words in the mean"
    values = Counter(column.texts)
    if len(column.texts) >= 20 and len(values) <= 3 and not any(map(infers_yes_no, values)):
        shown = ", ".join(f"{value} {count}" for value, count in values.most_common())
        why = f"by its name; only {len(values)} values ({shown}): a label of something, and no answer?"
        return Guess("columns.answer", column.name, why, False, others)
    if column.share(lambda v: _LETTER.fullmatch(str(v).strip()) is not None) >= _MOSTLY:
        why = "by its name; letters of choices, and no column holds choices: are they in the question (see form)?"
        return Guess("columns.answer", column.name, why, False, others)
    if column.texts and words > answers.LONG:
        why += "; so long a text is hardly equal to anything that a model says"
        return Guess("columns.answer", column.name, why, False, others)
    return Guess("columns.answer", column.name, why, column.plain in ANSWER[:9] and column.plain not in WORKED, others)


def _listed(column: SampledColumn) -> list[Guess]:
    """Several right answers in one cell."""
    if column.share(lambda v: isinstance(v, list) and len(v) > 1) > 0.05:
        return [Guess("answer_form", "accepted", "lists of answers, taken to be all right", False, ["text"])]
    return []


# --- names and domains


def _name(columns: Sequence[SampledColumn]) -> list[Guess]:
    def names(column: SampledColumn) -> bool:
        return column.is_text and len(column.texts) == len(column.values) and column.distinct == len(column.texts)

    found = ranked(columns, ID, lambda column: column.plain in ID and names(column))
    if not found:
        return []
    return [Guess("columns.id", found[0].name, "another value in every row", True, [each.name for each in found[1:]])]


def _domain(columns: Sequence[SampledColumn]) -> list[Guess]:
    """A column with few values; a guess that is never sure, because a weight is learned for every domain."""
    found = ranked(columns, DOMAIN, lambda each: each.plain in DOMAIN and each.is_text and _few(each))
    if not found:
        return []
    best = found[0]
    values = ", ".join([f"{value} {count}" for value, count in Counter(best.texts).most_common(4)])
    more = ", ..." if best.distinct > 4 else ""
    why = f"{best.distinct} values ({values}{more}); every domain gets a weight of its own"
    return [Guess("columns.domain", best.name, why, False, [None, *(each.name for each in found[1:])])]


def _few(column: SampledColumn) -> bool:
    return column.filled == 1 and 2 <= column.distinct <= min(30, len(column.texts) / 5) and column.length < 40
