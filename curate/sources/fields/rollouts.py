"""Chains of thought that datasets bring with their problems: steps and step labels, out of what they wrote. Pure.

One record holds one chain, or (PRM800K) several that share a beginning; RowError when it has another shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curate.errors import RowError
from curate.recipe.chain_sections import (
    ChainMap,
    ColumnChains,
    ConversationChains,
    IndexChains,
    SignChains,
    TaggedChains,
)
from curate.sources.base import GivenChain, Record
from curate.sources.fields import lists
from curate.sources.values import look, number_of, text_of

# What stands between the steps of a chain that came as a list.
SEPARATOR = "\n\n"
# Math-Shepherd's step tag, in Cyrillic.
_TAG = "ки"
_FIRST_STEP = re.compile(r"\s*\bStep 1\s*:")
_VISUALPRM = re.compile(r"\s*### Question:\s*(?P<question>.*?)\s*### Solution Process:\s*(?P<step>.*)", re.DOTALL)


def chains(record: Record, map_: ChainMap) -> Iterator[tuple[str | None, GivenChain]]:
    """(question, chain) of every chain of the record; the question is null where the form does not hold it."""
    policy = text_of(look(record, map_.policy)) if map_.policy else None
    outcome = _flag(look(record, map_.outcome), map_.outcome) if map_.outcome else None
    for question, steps, values, counts in _found(record, map_):
        if not steps or not all(step.strip() for step in steps):
            raise RowError("no-steps", f"{map_.steps} has no steps, or an empty one")
        yield question, GivenChain(joinable(steps), values, counts, outcome, policy)


def joinable(steps: Sequence[str]) -> tuple[str, ...]:
    """Steps that give the chain's text when joined."""
    return tuple(step if place == len(steps) - 1 else step + SEPARATOR for place, step in enumerate(steps))


_Found = tuple[str | None, list[str], Sequence[float | None], Sequence[tuple[int, int] | None]]


def _found(record: Record, map_: ChainMap) -> Iterator[_Found]:
    if isinstance(map_, ColumnChains):
        return _columns(record, map_)
    if isinstance(map_, TaggedChains):
        return _tagged(record, map_)
    return _conversation(record, map_) if isinstance(map_, ConversationChains) else _rated(record, map_)


def _columns(record: Record, map_: ColumnChains) -> Iterator[_Found]:
    steps = [_step(step) for step in _list(look(record, map_.steps), map_.steps)]
    values = _values(look(record, map_.labels), map_.labels, map_, len(steps)) if map_.labels else []
    counts: list[tuple[int, int] | None] = []
    if map_.right and map_.graded:
        right, graded = (_each(look(record, column), column, len(steps)) for column in (map_.right, map_.graded))
        counts = [_count(k, m) for k, m in zip(right, graded, strict=True)]
        # A step that nobody completed has no label, whatever stands in its place.
        known = values or [k / m if m else None for k, m in ((c or (0, 0)) for c in counts)]
        values = [value if count else None for value, count in zip(known, counts, strict=True)]
    yield None, steps, values, counts


def _count(k: Any, m: Any) -> tuple[int, int] | None:
    if k is None or m is None or m == 0:
        return None
    right, graded = _whole(k), _whole(m)
    if right is None or graded is None or not 0 <= right <= graded:
        raise RowError("unusable-label", f"{str(k)[:40]} right of {str(m)[:40]} completions")
    return right, graded


def _whole(found: Any) -> int | None:
    """A whole number, also where a frame made a float of it."""
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found:
        return None
    return int(found) if float(found).is_integer() else None


def _tagged(record: Record, map_: TaggedChains) -> Iterator[_Found]:
    """The marked twin has one character, + or -, where the text has the tag of two."""
    plain, marked = (text_of(look(record, column)) or "" for column in (map_.steps, map_.labels))
    *pieces, rest = plain.split(_TAG)
    marks, at = [], 0
    for piece in pieces:
        at += len(piece)
        if marked[at - len(piece) : at] != piece or marked[at : at + 1] not in ("+", "-"):
            raise RowError("unknown-form", f"the marked text does not follow the plain one at character {at}")
        marks.append(1.0 if marked[at] == "+" else 0.0)
        at += 1
    if rest.strip():
        raise RowError("unknown-form", f"text behind the last tag: {rest.strip()[:80]}")
    first = next((place for place, piece in enumerate(pieces) if _FIRST_STEP.search(piece)), None)
    if first is None:
        raise RowError("unknown-form", f'no tagged step that begins with "Step 1:": {plain[:80]}')
    # A tag inside the question labels nothing.
    match = _FIRST_STEP.search(pieces[first])
    assert match is not None  # noqa: S101
    question = _TAG.join([*pieces[:first], pieces[first][: match.start()]]).strip()
    steps = [pieces[first][match.start() :].strip(), *(piece.strip() for piece in pieces[first + 1 :])]
    yield question, steps, marks[first:], ()


def _conversation(record: Record, map_: ChainMap) -> Iterator[_Found]:
    turns = [turn for turn in _list(look(record, map_.steps), map_.steps) if isinstance(turn, Mapping)]
    said = [(turn.get("from"), text_of(turn.get("value")) or "") for turn in turns if turn.get("from") != "system"]
    asked, marks = [text for who, text in said[::2]], [text.strip() for who, text in said[1::2]]
    speakers = [who for who, _ in said]
    if not said or speakers != ["human", "gpt"] * (len(said) // 2):
        raise RowError("unknown-form", f"{map_.steps} is no sequence of human and gpt turns")
    opening = _VISUALPRM.fullmatch(asked[0])
    if opening is None or not set(marks) <= {"+", "-"}:
        raise RowError("unknown-form", f"no question and solution process, or no + and -: {asked[0][:80]}")
    yield opening["question"], [opening["step"], *asked[1:]], [float(mark == "+") for mark in marks], ()


def _rated(record: Record, map_: ChainMap) -> Iterator[_Found]:
    """The chosen chain, and each alternative behind the chosen steps before it, which are not labelled twice."""
    chosen: list[str] = []
    ratings: list[float | None] = []
    others: list[_Found] = []
    for number, step in enumerate(_list(look(record, map_.steps), map_.steps)):
        if not isinstance(step, Mapping):
            raise RowError("unknown-form", f"step {number} is a {type(step).__name__}")
        options = _list(step.get("completions") or [], "completions")
        if not all(isinstance(option, Mapping) for option in options):
            raise RowError("unknown-form", f"a completion of step {number} is no struct")
        pick = step.get("chosen_completion")
        for place, option in enumerate(options):
            if place != pick and option.get("rating") is not None:
                value = _sign(option["rating"])
                others.append((None, [*chosen, _step(option.get("text"))], [*[None] * len(chosen), value], ()))
        if pick is not None:
            if _whole(pick) != pick or not 0 <= pick < len(options):
                raise RowError("unknown-form", f"step {number} has no completion {pick}")
            chosen.append(_step(options[int(pick)].get("text")))
            ratings.append(_sign(options[int(pick)].get("rating")))
        elif step.get("human_completion"):
            written = step["human_completion"]
            # Nobody rated what the labeller wrote.
            chosen.append(_step(written.get("text") if isinstance(written, Mapping) else written))
            ratings.append(None)
        else:
            break
    if chosen:
        yield None, chosen, ratings, ()
    elif not others:
        raise RowError("no-steps", f"{map_.steps} has no completions")
    yield from others


def _list(value: Any, what: str) -> Sequence[Any]:
    """A list, also one that stands in a text, as in a cell of CSV."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = lists.parse(value)
        except ValueError as error:
            raise RowError("no-steps", f"{what} is a broken list ({error}): {value[:80]}") from None
    if not isinstance(value, list):
        raise RowError("no-steps", f"{what} is no list: {str(value)[:80]}")
    return value


def _each(value: Any, what: str, count: int) -> Sequence[Any]:
    value = _list(value, what) if isinstance(value, str) else value
    if not isinstance(value, list) or len(value) != count:
        raise RowError("unusable-label", f"{what} has not one entry for each of {count} steps: {str(value)[:80]}")
    return value


def _step(value: Any) -> str:
    text = text_of(value)
    if text is None:
        raise RowError("no-steps", "a step is null")
    return text.strip()


def _values(found: Any, what: str, map_: ColumnChains, count: int) -> list[float | None]:
    if isinstance(map_, IndexChains):
        wrong = _indices(found, map_, count)
        if map_.labels_form == "wrong-steps":
            return [0.0 if place in wrong else 1.0 for place in range(count)]
        right = min(wrong, default=count)
        return [1.0 if place < right else 0.0 if place == right else None for place in range(count)]
    read = _sign if isinstance(map_, SignChains) else _value
    return [read(each) for each in _each(found, what, count)]


def _indices(found: Any, map_: IndexChains, count: int) -> set[int]:
    """Which steps are wrong, from 0; none where the record says null, or the index before the first step's, or -1."""
    what, first = map_.labels, map_.labels_from
    if isinstance(found, str) and found.lstrip().startswith("["):
        found = _list(found, what)
    if not isinstance(found, list):
        # Frames write null as NaN, tables as an empty cell.
        empty = found is None or found != found or found == ""
        index = None if empty else number_of(found)
        found = [] if empty or (not isinstance(index, bool) and index in (-1, first - 1)) else [index]
    wrong = [number_of(each) for each in found]
    for index in wrong:
        if isinstance(index, bool) or not isinstance(index, int) or not first <= index < count + first:
            cure = "; do they count from 1 (labels_from)?" if index == count and first == 0 else ""
            raise RowError("unusable-label", f"{what} is no index of {count} steps: {str(index)[:40]}{cure}")
    return {index - first for index in wrong}


def _value(found: Any) -> float | None:
    found = number_of(found)
    if found is None or found != found:
        return None
    if not isinstance(found, bool | int | float) or not 0 <= found <= 1:
        raise RowError("unusable-label", f"a label from 0 to 1 is wanted, this is {str(found)[:40]!r}")
    return float(found)


def _sign(found: Any) -> float | None:
    found = number_of(found)
    if found is None or found == 0 or found != found:
        return None
    if isinstance(found, bool) or found not in (-1, 1):
        raise RowError("unusable-label", f"a label of -1, 0 or 1 is wanted, this is {str(found)[:40]!r}")
    return 1.0 if found == 1 else 0.0


def _flag(found: Any, what: str | None) -> bool | None:
    found = number_of(found)
    if found is None or isinstance(found, bool):
        return found
    if isinstance(found, str) and found.strip().lower() in ("true", "false"):
        return found.strip().lower() == "true"
    if found in (0, 1):
        return bool(found)
    raise RowError("unusable-value", f"{what} is neither true nor false: {str(found)[:40]!r}")
