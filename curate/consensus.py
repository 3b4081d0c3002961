"""Which step labels a judge disagrees with: consensus filtering of Monte Carlo labels. Pure.

Zhang et al., "The Lessons of Developing Process Reward Models in Mathematical Reasoning" (arXiv 2501.07301): labels of
completions and verdicts of a language model make different mistakes, so where both agree a label is more often right.
Nothing is changed but what is trained on: a masked label stays, with its reason. What stays is a selection by opinion,
no longer an unbiased sample of values.
"""

from __future__ import annotations

from collections.abc import Sequence

DISAGREED = "disagreed"
UNJUDGED = "unjudged"


def agreement(
    values: Sequence[float | None], verdicts: Sequence[bool | None], threshold: float, whole_chain: bool
) -> list[bool | None]:
    """Of each step, whether label and verdict agree; null where one of them is missing.

    A label above `threshold` calls its step right. With `whole_chain`, steps are compared up to the first one that both
    call wrong, and all steps of the chain get the one answer: whether none of these disagree. Where nothing is missing
    that is the published rule, the same first wrong step.
    """
    each = [
        None if value is None or verdict is None else (value > threshold) == verdict
        for value, verdict in zip(values, verdicts, strict=True)
    ]
    if not whole_chain:
        return each
    agreed: bool | None = None
    for same, verdict in zip(each, verdicts, strict=True):
        if same is not None:
            agreed = same
            if not (same and verdict):
                break
    return [agreed] * len(each)


def masks(
    values: Sequence[float | None],
    verdicts: Sequence[bool | None],
    threshold: float,
    whole_chain: bool,
    mask_unjudged: bool,
) -> list[str | None]:
    """Of each step, why its label is masked; null where it is not, or where it has none."""
    reasons: list[str | None] = []
    for value, agreed in zip(values, agreement(values, verdicts, threshold, whole_chain), strict=True):
        if value is None or agreed:
            reasons.append(None)
        elif agreed is None:
            reasons.append(UNJUDGED if mask_unjudged else None)
        else:
            reasons.append(DISAGREED)
    return reasons
