"""Stage: of problems of one role that are the same one stays; the same problem with another gold is a contradiction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from curate.recipe.sections import DedupConfig
from curate.stages.overlap import problems as reading
from curate.stages.overlap import texts
from curate.stages.overlap.drops import drop, write
from curate.stages.overlap.images import Gallery, Key
from curate.stages.overlap.problems import Problem
from curate.tables.lineage import Ledger
from curate.tables.rows import DropRow
from curate.tables.store import Store

# A problem is held against so many of those that ask the same and stay, the latest ones: films of thousands of frames
# are near from frame to frame, and not from end to end.
_LATEST = 32


def dedup(config: DedupConfig, workspace: Store) -> Ledger:
    """Keep one of the problems of a role that are the same; the ledger counts problems.

    Problems are the same that have equal questions, or near ones with equal numbers, on the same images in order,
    with the same choices in any order and the same right answer. The first one stays, by domain and identity, one with
    a gold answer before one without. Where equal questions have different gold answers, the answer that most of the
    problems give stays, on a tie the first one's; the others are dropped as `contradiction`.
    """
    every = reading.read(workspace)
    texts_alike = _Alike(every, config)
    dropped = _Dropping(Gallery(workspace, config.image_distance), texts_alike.images(), config).all(texts_alike)
    return write(workspace, "dedup", config.model_dump(), every, dropped)


class _Alike:
    """Problems whose texts are equal or near: images are looked at only where these are."""

    def __init__(self, every: Sequence[Problem], config: DedupConfig) -> None:
        asking: dict[tuple[Any, ...], list[Problem]] = defaultdict(list)
        for problem in every:
            domain = None if config.across else problem.domain
            key = (problem.role, domain, problem.options, problem.numbers, len(problem.image_hashes))
            asking[(*key, texts.normal(problem.question))].append(problem)
        self.equal = [group for group in asking.values() if len(group) > 1]
        answering: dict[tuple[Any, ...], dict[str, list[Problem]]] = defaultdict(dict)
        for (*shared, question), group in asking.items():
            for problem in group:
                answering[(*shared, problem.right)].setdefault(str(question), []).append(problem)
        self.reworded = [
            linked
            for by_question in answering.values()
            if len(by_question) > 1
            for linked in _linked(by_question, config.text_similarity)
        ]

    def images(self) -> set[str]:
        """The images of all problems."""
        groups = (*self.equal, *self.reworded)
        return {key for group in groups for problem in group for key in problem.image_hashes}


def _linked(by_question: Mapping[str, list[Problem]], threshold: float) -> Iterator[list[Problem]]:
    """Problems of one answer whose questions are linked by near ones."""
    index = texts.Near[str](threshold, by_question)
    near: dict[Key, int] = {}
    for question in by_question:
        near |= {(question, other): 0 for other, _ in index.find(question)}
        index.add(question, question)
    leaders = _leaders(near)
    linked: dict[str, list[Problem]] = defaultdict(list)
    for question, problems in by_question.items():
        if question in leaders:
            linked[leaders[question]] += problems
    yield from linked.values()


def _leaders(near: Mapping[Key, int]) -> dict[str, str]:
    """Image -> the first image that it is linked to by a chain of near ones."""
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


class _Dropping:
    """Decides which of the problems whose texts are alike stay."""

    def __init__(self, gallery: Gallery, images: Collection[str], config: DedupConfig) -> None:
        self._gallery, self._config = gallery, config
        # Of many copies each is compared with a few; they are linked all the same.
        self._leaders = _leaders(gallery.near(images))
        self._dropped: dict[str, DropRow] = {}

    def all(self, alike: _Alike) -> dict[str, DropRow]:
        """Problem id -> the row of `drops`, of those that do not stay."""
        for group in self._by_images(alike.equal):
            self._equal(group)
        for group in self._by_images(alike.reworded):
            self._reworded([problem for problem in group if problem.problem_id not in self._dropped])
        return self._dropped

    def _by_images(self, groups: Sequence[Sequence[Problem]]) -> Iterator[list[Problem]]:
        """Those of each group whose images are linked, one by one."""
        for group in groups:
            linked: dict[tuple[str, ...], list[Problem]] = defaultdict(list)
            for problem in group:
                linked[tuple(self._leaders.get(key, key) for key in problem.image_hashes)].append(problem)
            yield from (each for each in linked.values() if len(each) > 1)

    def _equal(self, equal: Sequence[Problem]) -> None:
        """Problems of one question."""
        votes = Counter(problem.right for problem in equal if problem.right is not None)
        first = {right: place for place, right in reversed(list(enumerate(problem.right for problem in equal)))}
        # Most votes first, then the first to come, and last those without a gold answer.
        order = sorted(equal, key=lambda each: (each.right is None, -votes[each.right or ""], first[each.right]))
        kept: list[Problem] = []
        for problem in order:
            if not any(self._held(problem, other, 1.0) for other in reversed(kept[-_LATEST:])):
                kept.append(problem)

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
        """How many bits each image differs in from the other's; None where one is another image."""
        found = []
        for one, two in zip(problem.image_hashes, other.image_hashes, strict=True):
            bits = 0 if one == two else self._gallery.bits(one, two)
            if self._leaders.get(one, one) != self._leaders.get(two, two) or bits > self._config.image_distance:
                return None
            found.append(bits)
        return found

    def _reworded(self, group: Sequence[Problem]) -> None:
        """Problems of one answer and several questions."""
        index = texts.Near[str](self._config.text_similarity, [problem.question for problem in group])
        by_id = {problem.problem_id: problem for problem in group}
        for name, problem in by_id.items():
            if not any(self._held(problem, by_id[other], text) for other, text in index.find(problem.question)):
                index.add(name, problem.question)
