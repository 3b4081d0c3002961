"""A few chains to look at: problem, image, steps with their labels and scores, chosen evenly and without looking."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from curate.images import decode
from curate.seeds import digest
from curate.tables.rows import Binary, columns_of
from curate.tables.schema import IMAGES, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store, among
from prm.metrics import mean
from prm.scoring.select import RunStepScore

# What the page may weigh: all images together, one image as it is, and the longest side of one that is reduced.
IMAGE_BUDGET = 2_000_000
_WHOLE = 60_000
_SIDE = 480
_SAFE = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class RolloutToChoose:
    """What rollouts are chosen by."""

    rollout_id: str
    domain: str
    role: str
    outcome: bool | None


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class RolloutToShow:
    """What is shown of a rollout."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    steps: Sequence[str]
    answer: str | None
    outcome: bool | None
    finish: str | None
    tokens: int | None


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class ProblemToShow:
    """What is shown of a problem."""

    problem_id: str
    question: str
    choices: Sequence[str]
    answer: str | None
    image_hashes: Sequence[str]


@columns_of(STEP_LABELS)
@dataclass(frozen=True, slots=True)
class LabelToShow:
    """What is shown of a step's label."""

    rollout_id: str
    step_index: int
    value: float | None
    k: int | None
    m: int | None
    standard_error: float | None


@columns_of(IMAGES)
@dataclass(frozen=True, slots=True)
class ImageToShow:
    """What is shown of an image."""

    image_hash: str
    bytes: Binary
    format: str
    width: int
    height: int


@dataclass(frozen=True)
class ChainStep:
    """One step: its label with counts (k of m) and standard error, and the mean score over runs; None is missing."""

    text: str
    value: float | None
    k: int | None
    m: int | None
    standard_error: float | None
    score: float | None


@dataclass(frozen=True)
class ShownRollout:
    """One rollout with its problem."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    question: str
    choices: tuple[str, ...]
    gold: str | None
    answer: str | None
    outcome: bool | None
    finish: str | None
    image_hashes: tuple[str, ...]
    steps: tuple[ChainStep, ...]


@dataclass(frozen=True)
class ShownImage:
    """An image as the page holds it; `uri` is None when it was left out to keep the page light."""

    uri: str | None
    width: int
    height: int


def _interleaved(parts: Iterable[Sequence[RolloutToChoose]]) -> list[RolloutToChoose]:
    """One of each part in turn, until all are used up."""
    return [row for layer in zip_longest(*parts) for row in layer if row is not None]


def _split(rows: Iterable[RolloutToChoose], by: Callable[[RolloutToChoose], object]) -> list[list[RolloutToChoose]]:
    parts: dict[object, list[RolloutToChoose]] = defaultdict(list)
    for row in rows:
        parts[by(row)].append(row)
    return [parts[key] for key in sorted(parts, key=str)]


def choose(workspace: Store, count: int, roles: Sequence[str] = ("test", "train")) -> list[str]:
    """At most `count` rollouts: of these roles in equal parts, over domains and outcomes in turn; in them by hash."""
    rows = sorted(workspace.rows(RolloutToChoose, among("role", roles)), key=lambda row: digest(row.rollout_id))
    by_role = []
    for part in _split(rows, lambda row: row.role):
        domains = [
            _interleaved(_split(domain, lambda row: row.outcome)) for domain in _split(part, lambda row: row.domain)
        ]
        by_role.append(_interleaved(domains))
    return [row.rollout_id for row in _interleaved(by_role)[:count]]


def chains(workspace: Store, count: int) -> tuple[ShownRollout, ...]:
    """At most `count` chains, by domain."""
    chosen = among("rollout_id", choose(workspace, count))
    rollouts = list(workspace.rows(RolloutToShow, chosen))
    wanted = among("problem_id", sorted({row.problem_id for row in rollouts}))
    problems = {row.problem_id: row for row in workspace.rows(ProblemToShow, wanted)}
    labels = {(row.rollout_id, row.step_index): row for row in workspace.rows(LabelToShow, chosen)}
    scores: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in workspace.rows(RunStepScore, chosen):
        if row.score is not None:
            scores[row.rollout_id, row.step_index].append(row.score)
    # A problem that was ingested anew may be gone.
    there = [row for row in rollouts if row.problem_id in problems]
    made = [_chain(row, problems[row.problem_id], labels, scores) for row in there]
    return tuple(sorted(made, key=lambda chain: (chain.domain, chain.role, chain.rollout_id)))


def _chain(
    rollout: RolloutToShow,
    problem: ProblemToShow,
    labels: Mapping[tuple[str, int], LabelToShow],
    scores: Mapping[tuple[str, int], Sequence[float]],
) -> ShownRollout:
    steps = []
    for index, text in enumerate(rollout.steps):
        key = rollout.rollout_id, index
        steps.append(ChainStep(text, *counts(labels.get(key)), mean(scores.get(key, ()))))
    return ShownRollout(
        rollout.rollout_id,
        rollout.problem_id,
        rollout.domain,
        rollout.role,
        problem.question,
        tuple(problem.choices),
        problem.answer,
        rollout.answer,
        rollout.outcome,
        rollout.finish,
        tuple(problem.image_hashes),
        tuple(steps),
    )


def counts(label: LabelToShow | None) -> tuple[float | None, int | None, int | None, float | None]:
    """A label's value, k, m and standard error; None where there is no label."""
    return (None, None, None, None) if label is None else (label.value, label.k, label.m, label.standard_error)


def images(workspace: Store, chosen: Iterable[ShownRollout], budget: int = IMAGE_BUDGET) -> dict[str, ShownImage]:
    """The images of these chains by hash, as data URIs, until the budget in bytes is used up."""
    hashes = sorted({key for chain in chosen for key in chain.image_hashes})
    found = {}
    for row in workspace.rows(ImageToShow, among("image_hash", hashes)):
        data, kind, (width, height) = light(row)
        budget -= len(data)
        text = f"data:{kind};base64,{base64.b64encode(data).decode()}" if budget >= 0 else None
        found[row.image_hash] = ShownImage(text, width, height)
    return found


def light(row: ImageToShow) -> tuple[bytes, str, tuple[int, int]]:
    """The original bytes when small and of a kind that browsers show, else a reduced WebP."""
    if len(row.bytes) <= _WHOLE and row.format in _SAFE:
        return row.bytes, _SAFE[row.format], (row.width, row.height)
    # As models see it: the copy carries no orientation tag, and browsers show 8 bits only.
    image = decode(row.bytes)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue(), "image/webp", image.size
