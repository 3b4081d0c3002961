"""The rollouts of one problem as candidates, and what each way of choosing picks among them. Pure.

Every order is total: ties go to the lowest sample index, and a candidate without a score ranks after all that have one.
Positions are indices into the given sequence of candidates.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

# Up to so many subsets the vote is taken over all of them, beyond it over this many drawn ones.
SUBSETS = 1000


@dataclass(frozen=True)
class Candidate:
    """One rollout: its answer, its grade (None is undecided), and its logit by run (None is missing)."""

    sample_index: int
    answer: str | None
    outcome: bool | None
    logits: Mapping[str, float | None]


def first(candidates: Sequence[Candidate]) -> int:
    """Position of the lowest sample index."""
    return min(range(len(candidates)), key=lambda place: candidates[place].sample_index)


def ranking(candidates: Sequence[Candidate], run: str) -> list[int]:
    """Positions from best to worst by the run's logit."""

    def key(place: int) -> tuple[bool, float, int]:
        logit = candidates[place].logits.get(run)
        return logit is None, -(logit or 0.0), candidates[place].sample_index

    return sorted(range(len(candidates)), key=key)


def best(candidates: Sequence[Candidate], run: str) -> int:
    """Position of the candidate that the run scores highest."""
    return ranking(candidates, run)[0]


def share_right(candidates: Sequence[Candidate], run: str) -> float:
    """Whether the candidate that the run scores highest is right; where several tie, the share of them that are."""
    top = candidates[best(candidates, run)].logits.get(run)
    tied = [candidate for candidate in candidates if candidate.logits.get(run) == top]
    return sum(candidate.outcome is True for candidate in tied) / len(tied)


def vote(candidate: Candidate) -> str | None:
    """What a candidate votes for; None for one without an answer or whose answer could not be graded."""
    if candidate.answer is None or candidate.outcome is None:
        return None
    return " ".join(candidate.answer.split()).casefold()


def majority(candidates: Sequence[Candidate]) -> int:
    """Position of the lowest sample index among the most frequent answers; the first where nobody votes."""
    votes = [vote(candidate) for candidate in candidates]
    counts = Counter(answer for answer in votes if answer is not None)
    if not counts:
        return first(candidates)
    most = max(counts.values())
    winners = [place for place, answer in enumerate(votes) if answer is not None and counts[answer] == most]
    return min(winners, key=lambda place: candidates[place].sample_index)


def by_order(right: Sequence[bool], size: int) -> float:
    """Chance that the first of a random subset is right, where `right` is in order of preference.

    Exact: the candidate at rank r leads C(n-1-r, size-1) of the C(n, size) subsets.
    """
    count = len(right)
    leads = sum(comb(count - 1 - rank, size - 1) for rank in range(count) if right[rank])
    return leads / comb(count, size)


def by_vote(candidates: Sequence[Candidate], size: int, seed: int) -> float:
    """Chance that the majority of a random subset is right: exact up to `SUBSETS` subsets, else over that many."""
    count = len(candidates)
    exact = comb(count, size) <= SUBSETS
    draw = random.Random(seed)
    subsets: Iterable[Sequence[int]] = (
        combinations(range(count), size) if exact else (draw.sample(range(count), size) for _ in range(SUBSETS))
    )
    right = total = 0
    for subset in subsets:
        chosen = [candidates[place] for place in subset]
        right += chosen[majority(chosen)].outcome is True
        total += 1
    return right / total


def expected(candidates: Sequence[Candidate], runs: Sequence[str], size: int, seed: int) -> dict[str, float]:
    """Expected accuracy of every method over subsets of `size` candidates; "prm <run>" for each run."""
    right = [candidate.outcome is True for candidate in candidates]
    count, good = len(candidates), sum(right)
    by_index = sorted(range(count), key=lambda place: candidates[place].sample_index)
    accuracy = {
        "first": by_order([right[place] for place in by_index], size),
        "majority": by_vote(candidates, size, seed),
        "random": good / count,
        "oracle": 1 - comb(count - good, size) / comb(count, size),
    }
    for run in runs:
        accuracy[f"prm {run}"] = by_order([right[place] for place in ranking(candidates, run)], size)
    return accuracy
