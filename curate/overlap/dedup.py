"""Stage: of problems of one role that are the same one stays; the same problem with another gold is a contradiction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curate.lineage import Ledger
from curate.overlap import problems as reading
from curate.overlap import texts
from curate.overlap.drops import drop, write
from curate.overlap.pictures import Gallery, Key
from curate.overlap.problems import Problem
from curate.schema import Row
from curate.sections import DedupConfig
from curate.store import Workspace

# A problem is held against so many of those that ask the same and stay, the latest ones: films of thousands of frames
# are near from frame to frame, and not from end to end.
_LATEST = 32


def dedup(config: DedupConfig, workspace: Workspace) -> Ledger:
    """Of problems of one role that are the same one stays; the ledger counts problems.

    The same are equal questions, or near ones with equal numbers, on the same pictures in order, with the same choices
    in any order and the same right answer. The first one stays, by domain and identity, one with a gold answer before
    one without. Where equal questions have different gold answers, the answer that most of the problems give stays, on
    a tie the first one's; the others are dropped as `contradiction`.
    """
    every = reading.read(workspace)
    gallery = Gallery(workspace, config.image_distance)
    alike = _sharing(every, config)
    near = gallery.near(key for group in alike for problem in group for key in problem.image_hashes)
    leaders = _leaders(near)
    dropped: dict[str, Row] = {}
    for group in alike:
        by_pictures: dict[tuple[str, ...], list[Problem]] = defaultdict(list)
        for problem in group:
            by_pictures[tuple(leaders.get(key, key) for key in problem.image_hashes)].append(problem)
        for each in by_pictures.values():
            if len(each) > 1:
                dropped |= _Group(near, config.text_similarity).sort(each)
    return write(workspace, "dedup", config.model_dump(), every, dropped)


def _sharing(every: Sequence[Problem], config: DedupConfig) -> list[list[Problem]]:
    """Problems that share all but the words of the question and the pictures: only these are compared."""
    by_key: dict[tuple[Any, ...], list[Problem]] = defaultdict(list)
    for problem in every:
        domain = None if config.across else problem.domain
        by_key[problem.role, domain, problem.options, problem.numbers, len(problem.image_hashes)].append(problem)
    return [group for group in by_key.values() if len(group) > 1]


def _leaders(near: Mapping[Key, int]) -> dict[str, str]:
    """Picture -> the first picture that it is linked to by a chain of near ones."""
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while above.get(key, key) != key:
            above[key] = above.get(above[key], above[key])
            key = above[key]
        return key

    for one, other in near:
        first, second = sorted((top(one), top(other)))
        above[second] = first
    return {key: top(key) for pair in near for key in pair}


class _Group:
    """Problems on linked pictures, with the same choices and numbers."""

    def __init__(self, near: Mapping[Key, int], threshold: float) -> None:
        self._near, self._threshold = near, threshold
        self._dropped: dict[str, Row] = {}

    def sort(self, group: Sequence[Problem]) -> dict[str, Row]:
        """Problem id -> the row of `drops`, of those that do not stay."""
        by_question: dict[str, list[Problem]] = defaultdict(list)
        for problem in group:
            by_question[texts.normal(problem.question)].append(problem)
        staying = [kept for equal in by_question.values() for kept in self._equal(equal)]
        by_answer: dict[str | None, list[Problem]] = defaultdict(list)
        for problem in staying:
            by_answer[problem.right].append(problem)
        for each in by_answer.values():
            if len({texts.normal(problem.question) for problem in each}) > 1:
                self._reworded(each)
        return self._dropped

    def _equal(self, equal: Sequence[Problem]) -> Iterator[Problem]:
        """Problems of one question; yields those that stay."""
        votes = Counter(problem.right for problem in equal if problem.right is not None)
        first = {right: place for place, right in reversed(list(enumerate(problem.right for problem in equal)))}
        # Most votes first, then the first to come, and last those without a gold answer.
        order = sorted(equal, key=lambda each: (each.right is None, -votes[each.right or ""], first[each.right]))
        kept: list[Problem] = []
        for problem in order:
            if not any(self._held(problem, other, 1.0) for other in reversed(kept[-_LATEST:])):
                kept.append(problem)
        yield from kept

    def _held(self, problem: Problem, other: Problem, text: float) -> bool:
        """Whether a problem yields to one that stays; if so it is dropped."""
        bits = self._bits(problem, other)
        if bits is None:
            return False
        agrees = problem.agrees(other)
        if agrees is False:
            reason = "contradiction"
        elif agrees or problem.right is None:
            same = problem.image_hashes == other.image_hashes and text == 1
            reason = "exact-duplicate" if same else "near-duplicate"
        else:
            return False
        self._dropped[problem.problem_id] = drop(problem, other, "dedup", reason, max(bits, default=None), text)
        return True

    def _bits(self, problem: Problem, other: Problem) -> list[int] | None:
        """How many bits each picture differs in from the other's; None where one is another picture."""
        pairs = zip(problem.image_hashes, other.image_hashes, strict=True)
        found = [0 if one == two else self._near.get((one, two)) for one, two in pairs]
        return None if None in found else found  # type: ignore[return-value]

    def _reworded(self, group: Sequence[Problem]) -> None:
        """Problems of one answer and several questions."""
        index = texts.Near(self._threshold, (problem.question for problem in group))
        for problem in group:
            for other, similarity in index.find(problem.question):
                if self._held(problem, other, similarity):  # type: ignore[arg-type]
                    break
            else:
                index.add(problem, problem.question)
