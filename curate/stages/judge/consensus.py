"""Which step labels a judge disagrees with: consensus filtering of Monte Carlo labels. Pure.

Zhang et al., "The Lessons of Developing Process Reward Models in Mathematical Reasoning" (arXiv 2501.07301): labels of
completions and verdicts of a language model make different mistakes, so where both agree a label is more often right.
Nothing is changed but what is trained on: a masked label stays, with its reason. What is left is a selection by
opinion, no longer an unbiased sample of values.
"""

from __future__ import annotations

from collections.abc import Sequence

DISAGREED = "disagreed"
UNJUDGED = "unjudged"
AFTER = "after-error"


def masks(
    values: Sequence[float | None],
    verdicts: Sequence[bool | None],
    threshold: float,
    whole_chain: bool,
    mask_unjudged: bool,
) -> list[str | None]:
    """Say for each step why its label is masked; null where it is not, or where it has none.

    A label above `threshold` calls its step right; where it or the verdict is missing there is nothing to compare. With
    `whole_chain` labels and verdicts are compared up to the first step that both call wrong: one disagreement before
    it masks all of the chain, else what comes after it is masked.
    """
    agreed = [
        None if value is None or verdict is None else (value > threshold) == verdict
        for value, verdict in zip(values, verdicts, strict=True)
    ]
    reasons = _of_chain(agreed, verdicts) if whole_chain else [_REASONS[each] for each in agreed]
    return [
        None if value is None or (reason == UNJUDGED and not mask_unjudged) else reason
        for value, reason in zip(values, reasons, strict=True)
    ]


_REASONS = {True: None, False: DISAGREED, None: UNJUDGED}


def _of_chain(agreed: Sequence[bool | None], verdicts: Sequence[bool | None]) -> list[str | None]:
    """The reasons when a chain is kept or masked as a whole."""
    wrong = [place for place, verdict in enumerate(verdicts) if agreed[place] and verdict is False]
    end = wrong[0] + 1 if wrong else len(agreed)
    compared = {each for each in agreed[:end] if each is not None}
    reason = _REASONS[False not in compared if compared else None]
    return [reason] * end + [reason or AFTER] * (len(agreed) - end)
