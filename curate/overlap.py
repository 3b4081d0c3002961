"""Stages: duplicates among the problems of one role, and training problems that the meta or test set shows.

What is dropped goes into the table `drops`, with the problem that it is too much like and how much; nothing is deleted,
and a stage that is run again decides afresh. Later stages leave dropped problems alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from curate import lineage, similar
from curate.answers.base import folded
from curate.errors import UserError
from curate.lineage import Ledger
from curate.schema import DROPS, IMAGES, PROBLEMS, Row
from curate.sections import DecontaminateConfig, DedupConfig
from curate.store import Workspace, among

_COLUMNS = ["problem_id", "domain", "role", "question", "choices", "answer", "image_hashes"]


@dataclass(frozen=True)
class _Problem:
    """A problem as it is compared."""

    problem_id: str
    domain: str
    role: str
    question: str
    choices: Sequence[str]
    answer: str
    image_hashes: Sequence[str]

    @cached_property
    def shingles(self) -> frozenset[str]:
        """Of the question and its choices."""
        return similar.shingles("\n".join([self.question, *self.choices]))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Of the question and its choices."""
        return similar.numbers(similar.normal("\n".join([self.question, *self.choices])))

    def alike(self, other: _Problem) -> float:
        """Similarity of the texts; 0 when their numbers differ."""
        return similar.jaccard(self.shingles, other.shingles) if self.numbers == other.numbers else 0.0


@dataclass
class _Gallery:
    """The pictures of a workspace: which are near to which."""

    workspace: Workspace
    distance: int
    hashes: dict[str, int] = field(default_factory=dict)
    _sketches: dict[str, similar.Sketch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = self.workspace.read(IMAGES, ["image_hash", "perceptual_hash"])
        columns = (table["image_hash"].to_pylist(), table["perceptual_hash"].to_pylist())
        self.hashes = {key: int(value, 16) for key, value in zip(*columns, strict=True)}

    def near(self, ours: Iterable[str], theirs: Iterable[str] | None = None) -> dict[tuple[str, str], int]:
        """(one, other) -> bits, of all pairs of different pictures that are the same to the eye, both ways round."""
        left = sorted(set(ours))
        right = None if theirs is None else sorted(set(theirs))
        others = left if right is None else right
        bits = [self.hashes[key] for key in others]
        pairs = similar.near_hashes([self.hashes[key] for key in left], None if right is None else bits, self.distance)
        found: dict[tuple[str, str], int] = {}
        candidates = [(left[one], others[other], count) for one, other, count in pairs if left[one] != others[other]]
        self._read({key for one, other, _ in candidates for key in (one, other)})
        for one, other, count in candidates:
            if similar.same_picture(self._sketches[one], self._sketches[other]):
                found[one, other] = found[other, one] = count
        return found

    def _read(self, keys: set[str]) -> None:
        wanted = sorted(keys - self._sketches.keys())
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            table = self.workspace.read(IMAGES, ["image_hash", "bytes"], where=among("image_hash", part))
            for row in table.to_pylist():
                self._sketches[row["image_hash"]] = similar.sketch(row["bytes"])


def _problems(workspace: Workspace) -> list[_Problem]:
    rows = workspace.read(PROBLEMS, _COLUMNS).to_pylist()
    if not rows:
        raise UserError("The workspace has no problems; run `curate ingest` first.")
    return sorted((_Problem(**row) for row in rows), key=lambda problem: (problem.domain, problem.problem_id))


def _drop(problem: _Problem, against: _Problem, by: str, reason: str, bits: int | None, text: float | None) -> Row:
    return {
        "problem_id": problem.problem_id,
        "domain": problem.domain,
        "role": problem.role,
        "by": by,
        "reason": reason,
        "against": against.problem_id,
        "against_domain": against.domain,
        "against_role": against.role,
        "image_distance": bits,
        "text_similarity": text,
    }


def dedup(config: DedupConfig, workspace: Workspace) -> Ledger:
    """Of problems of one role that are alike the first stays, by domain and identity; the ledger counts problems.

    Alike are equal texts or near ones, with equal numbers and answers, on the same pictures or near ones, in order.
    """
    problems = _problems(workspace)
    near = _Gallery(workspace, config.image_distance).near(key for p in problems for key in p.image_hashes)
    dropped: dict[str, Row] = {}
    for group in _comparable(problems, near, config):
        kept: list[_Problem] = []
        for problem in group:
            twin = _twin(problem, kept, near, config.text_similarity)
            if twin is None:
                kept.append(problem)
            else:
                dropped[problem.problem_id] = twin
    return _write(workspace, "dedup", config.model_dump(), problems, dropped)


def _comparable(
    problems: Sequence[_Problem], near: Mapping[tuple[str, str], int], config: DedupConfig
) -> Iterator[list[_Problem]]:
    """Groups within which all duplicates lie: the same role, answer, number of pictures, and linked first pictures."""
    leader = _leaders(near)
    by_key: dict[tuple[Any, ...], list[_Problem]] = defaultdict(list)
    for problem in problems:
        first = leader.get(problem.image_hashes[0], problem.image_hashes[0]) if problem.image_hashes else None
        domain = None if config.across else problem.domain
        key = (problem.role, domain, folded(problem.answer), len(problem.image_hashes), first)
        by_key[key].append(problem)
    for key, group in by_key.items():
        if len(group) > 1:
            yield from [group] if key[-1] is not None else _by_text(group, config.text_similarity)


def _leaders(near: Mapping[tuple[str, str], int]) -> dict[str, str]:
    """Picture -> the first picture that it is linked to by a chain of near ones."""
    above: dict[str, str] = {}

    def top(key: str) -> str:
        while above.get(key, key) != key:
            key = above[key]
        return key

    for one, other in near:
        first, second = sorted((top(one), top(other)))
        above[second] = first
    return {key: top(key) for pair in near for key in pair}


def _by_text(group: Sequence[_Problem], threshold: float) -> Iterator[list[_Problem]]:
    """Problems of text alone: those that are linked by near texts, in their order."""
    by_name = {problem.problem_id: problem for problem in group}
    pairs = similar.near_texts({name: problem.shingles for name, problem in by_name.items()}, None, threshold)
    leader = _leaders(dict.fromkeys(pairs, 0))
    linked: dict[str, list[_Problem]] = defaultdict(list)
    for problem in group:
        if problem.problem_id in leader:
            linked[leader[problem.problem_id]].append(problem)
    yield from linked.values()


def _twin(
    problem: _Problem, kept: Sequence[_Problem], near: Mapping[tuple[str, str], int], threshold: float
) -> Row | None:
    for other in kept:
        text = problem.alike(other)
        if text < threshold:
            continue
        bits = [
            0 if one == two else near.get((one, two))
            for one, two in zip(problem.image_hashes, other.image_hashes, strict=True)
        ]
        if None in bits:
            continue
        same = problem.image_hashes == other.image_hashes
        reason = "exact-duplicate" if same and text == 1 else "near-duplicate"
        return _drop(problem, other, "dedup", reason, max(bits, default=None), text)  # type: ignore[type-var]
    return None


def decontaminate(config: DecontaminateConfig, workspace: Workspace) -> Ledger:
    """Training problems that show a picture of the clean sets, or have their text; the ledger counts train problems."""
    every = _problems(workspace)
    ours = [problem for problem in every if problem.role == "train"]
    theirs = [problem for problem in every if problem.role in config.clean]
    dropped = _by_picture(ours, theirs, _Gallery(workspace, config.image_distance))
    for problem, other, text in _by_question(ours, theirs, config):
        dropped.setdefault(problem.problem_id, _drop(problem, other, "decontaminate", "text-overlap", None, text))
    return _write(workspace, "decontaminate", config.model_dump(mode="json"), ours, dropped)


def _by_picture(ours: Sequence[_Problem], theirs: Sequence[_Problem], gallery: _Gallery) -> dict[str, Row]:
    shown: dict[str, _Problem] = {}
    for problem in theirs:
        for key in problem.image_hashes:
            shown.setdefault(key, problem)
    near: dict[str, tuple[str, int]] = {key: (key, 0) for key in shown}
    for (one, other), bits in gallery.near((key for p in ours for key in p.image_hashes), shown).items():
        if other in shown:
            near.setdefault(one, (other, bits))
    dropped = {}
    for problem in ours:
        for key in problem.image_hashes:
            if key in near:
                other, bits = near[key]
                row = _drop(problem, shown[other], "decontaminate", "image-overlap", bits, problem.alike(shown[other]))
                dropped[problem.problem_id] = row
                break
    return dropped


def _by_question(
    ours: Sequence[_Problem], theirs: Sequence[_Problem], config: DecontaminateConfig
) -> Iterator[tuple[_Problem, _Problem, float]]:
    def telling(problems: Sequence[_Problem]) -> dict[str, _Problem]:
        return {
            problem.problem_id: problem
            for problem in problems
            if not problem.image_hashes or len(similar.normal(problem.question)) >= config.min_characters
        }

    mine, clean = telling(ours), telling(theirs)
    left, right = ({name: problem.shingles for name, problem in side.items()} for side in (mine, clean))
    # Only across: training problems of one template are alike in their thousands.
    for one, other in similar.near_texts(left, right, config.text_similarity):
        text = mine[one].alike(clean[other])
        if text >= config.text_similarity:
            yield mine[one], clean[other], text


def _write(
    workspace: Workspace, by: str, settings: Mapping[str, Any], problems: Sequence[_Problem], dropped: Mapping[str, Row]
) -> Ledger:
    partition = workspace.partition(DROPS, by)
    partition.clear()
    partition.commit_all(dropped.values())
    reasons = Counter(row["reason"] for row in dropped.values())
    ledger = Ledger("problems", taken=len(problems), out=len(problems) - len(dropped), rejected=dict(reasons))
    ledger.check(by)
    lineage.write(partition, by, settings, {"problems": len(problems)}, ledger)
    return ledger
