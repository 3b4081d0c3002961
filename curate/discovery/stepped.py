"""Chains of thought that a table brings: which columns hold steps, labels, outcomes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from curate.discovery.findings import Guess
from curate.discovery.names import OUTCOME, POLICY, STEPS, ranked
from curate.discovery.table import SampledColumn, blank
from curate.sources.values import number_of

# Math-Shepherd's step tag, in Cyrillic.
_TAG = "ки"
_MOSTLY = 0.9


def guess(columns: Sequence[SampledColumn]) -> list[Guess]:
    """The keys of `chain`, `columns.question: null` and the like included; nothing without labelled steps."""
    for form in (_rated, _tagged, _conversation, _columns):
        found = form(columns)
        if found:
            return [*found, *_about(columns, found)]
    return []


def turns(value: Any) -> list[Mapping[str, Any]]:
    """The turns of a conversation; empty where a value is none."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return []
    known = all({"from", "value"} <= t.keys() or {"role", "content"} <= t.keys() or {"user", "assistant"} <= t.keys()
                for t in value)  # fmt: skip
    return list(value) if known else []


def _rated(columns: Sequence[SampledColumn]) -> list[Guess]:
    def rated(value: Any) -> bool:
        steps = [step for step in value if isinstance(step, Mapping)] if isinstance(value, list) else []
        options = [option for step in steps for option in step.get("completions") or []]
        return any(isinstance(option, Mapping) and "rating" in option for option in options)

    for column in columns:
        if column.share(rated) >= _MOSTLY:
            why = "every step has completions with a rating each, as in PRM800K"
            return [Guess("chain.form", "rated", why), Guess("chain.steps", column.name, why)]
    return []


def _tagged(columns: Sequence[SampledColumn]) -> list[Guess]:
    texts = [column for column in columns if column.is_text]
    for plain in texts:
        if plain.share(lambda v: str(v).count(_TAG) >= 1) < _MOSTLY:
            continue
        for marked in texts:
            if marked is plain:
                continue
            pairs = [(a, b) for a, b in zip(plain.values, marked.values, strict=True) if a and b]
            twins = sum(_TAG not in b and b.replace("+", _TAG).replace("-", _TAG) != b for _, b in pairs)
            if pairs and twins >= _MOSTLY * len(pairs):
                why = f"steps of {plain.name} end in the tag {_TAG}, and {marked.name} has + or - there"
                return [
                    Guess("chain.form", "tagged", why),
                    Guess("chain.steps", plain.name, why),
                    Guess("chain.labels", marked.name, why),
                    Guess("columns.question", None, "the form has the question in the text of the steps"),
                ]
    return []


def _conversation(columns: Sequence[SampledColumn]) -> list[Guess]:
    def judged(value: Any) -> bool:
        said = [turn.get("value") for turn in turns(value) if turn.get("from") == "gpt"]
        return bool(said) and all(isinstance(text, str) and text.strip() in ("+", "-") for text in said)

    for column in columns:
        if column.share(judged) >= _MOSTLY:
            why = "every turn is a step, answered by + or -, as in VisualPRM400K"
            return [
                Guess("chain.form", "conversation", why),
                Guess("chain.steps", column.name, why),
                Guess("columns.question", None, "the form has the question in the first turn"),
            ]
    return []


def _columns(columns: Sequence[SampledColumn]) -> list[Guess]:
    for steps in ranked(columns, STEPS, _are_steps):
        labels = _labels(steps, columns)
        if labels:
            others = [each.name for each in ranked(columns, STEPS, _are_steps) if each is not steps]
            counts = [len(value) for value in steps.present]
            why = f"a list of texts in each row, {min(counts)} to {max(counts)} steps"
            return [Guess("chain.steps", steps.name, why, not others, others), *labels]
    return []


def _are_steps(column: SampledColumn) -> bool:
    """Lists of texts, as a rule of two and more."""

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)

    counts = [len(value) for value in column.present if isinstance(value, list)]
    return column.share(texts) >= _MOSTLY and sum(counts) >= 2 * len(counts)


def _labels(steps: SampledColumn, columns: Sequence[SampledColumn]) -> list[Guess]:
    """Labels, or counts of right and of all completions, one a step; or the first wrong step."""
    beside = [column for column in columns if column.name != steps.name]
    each = [column for column in beside if _pairs(steps, column, _one_each)]
    counts = [column for column in each if column.share(lambda v: all(_whole(x) for x in v)) >= _MOSTLY]
    values = [column for column in each if column.share(lambda v: all(_unit(x) for x in v)) >= _MOSTLY]
    signs = [column for column in each if column.share(lambda v: all(_sign(x) for x in v)) >= _MOSTLY]
    signed = [column for column in signs if any(x == -1 for value in column.present for x in value)]
    found = _counted(counts)
    if signed:
        why = "-1, 0 or 1 for every step"
        return [Guess("chain.labels", signed[0].name, why), Guess("chain.labels_form", "sign", why)]
    if values:
        best = _preferring(values, ("label", "labels", "score", "scores", "ratings", "correctness"))
        others = [column.name for column in values if column is not best and not found]
        return [
            Guess("chain.labels", best.name, "true or false, or 0 to 1, for every step", not others, others),
            *found,
        ]
    return found or _first_errors(steps, beside)


def _counted(counts: Sequence[SampledColumn]) -> list[Guess]:
    """Two columns of whole numbers, the one never above the other."""
    for right in counts:
        for graded in counts:
            pairs = [
                pair
                for a, b in zip(right.values, graded.values, strict=True)
                if a and b
                for pair in zip(a, b, strict=False)
            ]
            known = [(k, m) for k, m in pairs if k is not None and m is not None]
            if right is graded or not known or not all(0 <= k <= m for k, m in known):
                continue
            if any(k < m for k, m in known) and max(m for _, m in known) > 1:
                why = f"{right.name} is never above {graded.name}, for every step"
                return [Guess("chain.right", right.name, why), Guess("chain.graded", graded.name, why)]
    return []


_FIRST = ("label", "firsterror", "firsterrorstep", "firstwrongstep", "errorstep", "erroridx", "mistakeindex", "mistake",
          "firsterrorindex")  # fmt: skip
_ALL = ("errorsteps", "wrongsteps", "errors", "mistakes", "errorindices", "incorrectsteps", "hallucinationsteps")


def _first_errors(steps: SampledColumn, columns: Sequence[SampledColumn]) -> list[Guess]:
    """A place among the steps in every row, null where no step is wrong; or a list of all such places."""
    for form, names in (("first-error", _FIRST), ("wrong-steps", _ALL)):
        for column in ranked(columns, names, lambda each: bool(each.present)):
            pairs = [
                (s, v) for s, v in zip(steps.values, column.values, strict=True) if isinstance(s, list) and not blank(v)
            ]
            each = [(number_of(one), len(s)) for s, v in pairs for one in (v if isinstance(v, list) else [v])]
            places = [(place, count) for place, count in each if _place(place) and -1 <= place <= count]
            listed = column.share(lambda v: isinstance(v, list)) > 0.5
            if places and len(places) >= 0.98 * len(each) and listed == (form == "wrong-steps"):
                return _indexed(column.name, form, places)
    return []


def _indexed(name: str, form: str, places: Sequence[tuple[int, int]]) -> list[Guess]:
    """The keys for places among the steps, and whether these count from 0 or from 1."""
    numbers = [place for place, _ in places]
    why = f"places among the steps, {min(numbers, default=0)} to {max(numbers, default=0)}"
    found = [Guess("chain.labels", name, why), Guess("chain.labels_form", form, why)]
    if any(place == count for place, count in places):
        return [*found, Guess("chain.labels_from", 1, "some are the number of the last step")]
    if -1 in numbers or 0 in numbers:
        return found
    return [*found, Guess("chain.labels_from", 0, "none is 0, and none the number of steps", False, [1])]


def _about(columns: Sequence[SampledColumn], found: Sequence[Guess]) -> list[Guess]:
    """Whether the final answer is right, and who wrote the chain."""
    taken = {guess.value for guess in found}
    free = [column for column in columns if column.name not in taken]
    more = []
    for column in ranked(free, OUTCOME, lambda each: all(value in (0, 1) for value in each.present if _place(value))):
        if column.present and all(isinstance(value, bool | int) for value in column.present):
            more.append(Guess("chain.outcome", column.name, "true or false for every chain"))
            break
    for column in ranked(free, POLICY, lambda each: each.is_text and 1 <= each.distinct <= 50 and each.length < 60):
        more.append(Guess("chain.policy", column.name, f"{column.distinct} names of models"))
        break
    return more


def _pairs(steps: SampledColumn, column: SampledColumn, fits: Callable[[Any, Any], bool]) -> bool:
    """Whether a column fits the steps in nearly all rows that have both."""
    pairs = [
        (s, v) for s, v in zip(steps.values, column.values, strict=True) if isinstance(s, list) and s and v is not None
    ]
    return bool(pairs) and sum(fits(s, v) for s, v in pairs) >= _MOSTLY * len(pairs)


def _one_each(steps: Any, values: Any) -> bool:
    return isinstance(values, list) and len(values) == len(steps)


def _whole(value: Any) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    )


def _unit(value: Any) -> bool:
    return value is None or (isinstance(value, bool | int | float) and 0 <= value <= 1)


def _sign(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value in (-1, 0, 1))


def _place(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _preferring(columns: Sequence[SampledColumn], names: Sequence[str]) -> SampledColumn:
    return next(iter(ranked(columns, names, lambda column: True)), columns[0])
