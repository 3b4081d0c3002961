"""The rollouts of one problem as candidates, and what each way of choosing picks among them. Pure.

Every order is total: ties go to the lowest sample index, and a candidate without a score ranks after all that have one.
Positions are indices into the given sequence of candidates.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

# Up to so many subsets the vote is taken over all of them, beyond it over this many drawn ones.
SUBSETS = 1000
# Sums of scores that differ by less are equal: they are added in different orders.
_EQUAL = 1e-9


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
    maximum = max(counts.values())
    winners = [place for place, answer in enumerate(votes) if answer is not None and counts[answer] == maximum]
    return min(winners, key=lambda place: candidates[place].sample_index)


def weighted(candidates: Sequence[Candidate], run: str) -> int:
    """Position of the lowest sample index among the answers whose votes have the largest sum of the run's scores.

    A vote counts as its rollout score in (0, 1), one without a score as 0. Equal sums go by the number of votes, then
    by the lowest sample index, so that without any score this is the majority; the first where nobody votes.
    """
    sums: dict[str, float] = defaultdict(float)
    votes = [vote(candidate) for candidate in candidates]
    for candidate, answer in zip(candidates, votes, strict=True):
        if answer is not None:
            sums[answer] += _share(candidate, run)
    if not sums:
        return first(candidates)
    counts, maximum = Counter(votes), max(sums.values())
    near = {answer: counts[answer] for answer, total in sums.items() if total >= maximum - _EQUAL}
    winners = [place for place, answer in enumerate(votes) if answer in near and near[answer] == max(near.values())]
    return min(winners, key=lambda place: candidates[place].sample_index)


def _share(candidate: Candidate, run: str) -> float:
    logit = candidate.logits.get(run)
    return 0.0 if logit is None else probability(logit)


def probability(logit: float) -> float:
    """sigmoid(logit) without overflow."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def by_order(right: Sequence[bool], size: int) -> float:
    """Chance that the first of a random subset is right, where `right` is in order of preference.

    Exact: the candidate at rank r leads C(n-1-r, size-1) of the C(n, size) subsets.
    """
    count = len(right)
    leads = sum(comb(count - 1 - rank, size - 1) for rank in range(count) if right[rank])
    return leads / comb(count, size)


def _subsets(count: int, size: int, seed: int) -> Any:
    """Which of `count` candidates are in each subset of `size`, [subsets, count] of 0 and 1: in all subsets, where
    there are at most `SUBSETS`, else in so many drawn ones.
    """
    if comb(count, size) <= SUBSETS:
        chosen = np.array(list(combinations(range(count), size)))
    else:
        chosen = np.random.default_rng(seed).random((SUBSETS, count)).argsort(axis=1)[:, :size]
    members = np.zeros((len(chosen), count))
    np.put_along_axis(members, chosen, 1.0, axis=1)
    return members


class Votes:
    """Votes among random subsets of `size` of a problem's candidates: exact up to `SUBSETS` subsets, else over as many
    drawn by `seed`.
    """

    def __init__(self, candidates: Sequence[Candidate], size: int, seed: int) -> None:
        # By sample index, so that the first of a subset is its lowest.
        self.candidates = sorted(candidates, key=lambda candidate: candidate.sample_index)
        self.members = _subsets(len(candidates), size, seed)
        votes = [vote(candidate) for candidate in self.candidates]
        answers = {
            answer: column for column, answer in enumerate(dict.fromkeys(one for one in votes if one is not None))
        }
        self.ballots = np.zeros((len(votes), len(answers)))
        for place, answer in enumerate(votes):
            if answer is not None:
                self.ballots[place, answers[answer]] = 1.0
        self.right = np.array([candidate.outcome is True for candidate in self.candidates])

    def majority(self) -> float:
        """Chance that the majority of a subset is right."""
        return self._won(self.members @ self.ballots)

    def weighted(self, run: str) -> float:
        """Chance that the answer with the largest sum of the run's scores is right."""
        shares = np.array([_share(candidate, run) for candidate in self.candidates])
        return self._won(self.members @ (self.ballots * shares[:, None]))

    def _won(self, sums: Any) -> float:
        """Share of subsets, [subsets, answers] their sums, whose winner is right."""
        firsts = self.members.argmax(axis=1)
        if not sums.shape[1]:
            return float(self.right[firsts].mean())
        counts = self.members @ self.ballots
        level = (sums >= sums.max(axis=1, keepdims=True) - _EQUAL) & (counts > 0)
        counts = np.where(level, counts, 0)
        won = level & (counts == counts.max(axis=1, keepdims=True))
        # A candidate can be picked when it is in the subset and its answer is among the winners.
        pick = self.members * (won.astype(float) @ self.ballots.T)
        return float(self.right[np.where(pick.any(axis=1), pick.argmax(axis=1), firsts)].mean())


def expected(candidates: Sequence[Candidate], runs: Sequence[str], size: int, seed: int) -> dict[str, float]:
    """Expected accuracy of every method over subsets of `size` candidates; "prm <run>", "weighted <run>" for each."""
    right = [candidate.outcome is True for candidate in candidates]
    count, good = len(candidates), sum(right)
    by_index = sorted(range(count), key=lambda place: candidates[place].sample_index)
    votes = Votes(candidates, size, seed)
    accuracy = {
        "first": by_order([right[place] for place in by_index], size),
        "majority": votes.majority(),
        "random": good / count,
        "oracle": 1 - comb(count - good, size) / comb(count, size),
    }
    for run in runs:
        accuracy[f"prm {run}"] = by_order([right[place] for place in ranking(candidates, run)], size)
        accuracy[f"weighted {run}"] = votes.weighted(run)
    return accuracy
