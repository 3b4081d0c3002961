"""Two rules that choose a part of the training rollouts: the selection baselines of DreamPRM's tables. Pure.

How its authors adapted either to rollouts with step labels is not published; this is our own adaptation. Both see what
the trainer sees, and keep `subset.share` of it:

- `s1` (arXiv 2501.19393: quality, then difficulty, then diversity). Quality: a rollout with a step without text or
  label is left out. Difficulty: so is every rollout of a problem whose labels are all 1, which the policy never fails.
  Diversity: a domain is drawn, each as likely as another, and in it a rollout, the longest with probability 1/2, the
  next with 1/4, and so on, until there are enough.
- `car` (arXiv 2402.18191: clustering and ranking). Its quality score was learned from experts' edits of instructions,
  which rollouts have none of; the score here is that of BIS (arXiv 2602.04145), (p (1 - p) + 0.05) R with p the share
  of steps whose label is above 0 and R those labels' mean. Texts are clustered by k-means on hashed words (tf-idf), k =
  sqrt(rollouts / 2) as in the paper; the best of each cluster stay, then the best of all until there are enough.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from curate.errors import RowError, UserError
from curate.seeds import rng, seed
from prm.config import CarTraining, SubsetTraining
from prm.data.examples import Example

Vectors = NDArray[np.float32]
Left = list[tuple[Example, RowError]]
WIDTH = 256
_ROUNDS = 25


def choose(config: SubsetTraining, examples: Sequence[Example], run_seed: int) -> Left:
    """Tell what the mode leaves out of these training rollouts, and why; UserError when nothing would be left."""
    if not examples:
        return []
    keep = max(1, round(config.subset.share * len(examples)))
    ordered = sorted(examples, key=lambda example: example.rollout_id)
    if isinstance(config, CarTraining):
        left = _car(ordered, keep, config.subset.clusters, run_seed)
    else:
        left = _s1(ordered, keep, run_seed)
    if len(left) == len(examples):
        counts = Counter(error.reason for _, error in left)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
        raise UserError(
            f"Mode {config.mode} leaves none of {len(examples):,} training rollouts ({reasons}); use another mode."
        )
    return left


def notes(mode: str, kept: Mapping[str, Sequence[str]], rejected: Mapping[str, int]) -> list[str]:
    """One line on what a mode has chosen, from the rollouts kept by domain and all rejects by reason."""
    left = sum(count for reason, count in rejected.items() if reason.startswith(f"{mode}-"))
    total = sum(map(len, kept.values()))
    domains = ", ".join(f"{domain} {len(names):,}" for domain, names in sorted(kept.items()))
    return [f"Mode {mode} trains on {total:,} of {total + left:,} rollouts ({domains}); the rest is in `rejects`."]


def _s1(examples: Sequence[Example], keep: int, run_seed: int) -> Left:
    left, whole = [], list[Example]()
    for example in examples:
        odd = _malformed(example)
        if odd is None:
            whole.append(example)
        else:
            left.append((example, RowError("s1-malformed", odd)))
    lowest: dict[str, float] = {}
    for example in whole:
        lowest[example.problem_id] = min(
            lowest.get(example.problem_id, 1.0), *(v for v in example.values if v is not None)
        )
    hard: dict[str, list[Example]] = {}
    for example in whole:
        if lowest[example.problem_id] >= 1:
            left.append((example, RowError("s1-easy", "all labels of all rollouts of its problem are 1")))
        else:
            hard.setdefault(example.domain, []).append(example)
    total = sum(map(len, hard.values()))
    for example in _drawn(hard, total - keep, keep, run_seed):
        left.append((example, RowError("s1-not-drawn", f"{min(keep, total):,} of {total:,} were drawn")))
    return left


def _malformed(example: Example) -> str | None:
    for index, (step, value) in enumerate(zip(example.steps, example.values, strict=True)):
        if not step.strip() or value is None:
            return f"step {index} has no {'text' if not step.strip() else 'label'}"
    return None


def _drawn(groups: dict[str, list[Example]], surplus: int, keep: int, run_seed: int) -> list[Example]:
    """What remains of these groups when `keep` were drawn; nothing where there are no more than that."""
    if surplus <= 0:
        return []
    draw = rng(run_seed, "s1")
    remaining = {
        name: sorted(group, key=lambda example: (-sum(map(len, example.steps)), example.rollout_id))
        for name, group in sorted(groups.items())
    }
    for _ in range(keep):
        group = remaining[draw.choice([name for name, group in remaining.items() if group])]
        place = 0
        while place < len(group) - 1 and draw.random() < 0.5:
            place += 1
        del group[place]
    return [example for group in remaining.values() for example in group]


def quality(example: Example) -> float:
    """BIS score of a rollout, in [0, 0.3]; 0 when no labelled step is above 0."""
    labels = [value for value in example.values if value is not None]
    positive = [value for value in labels if value > 0]
    if not positive:
        return 0.0
    share = len(positive) / len(labels)
    return (share * (1 - share) + 0.05) * sum(positive) / len(positive)


def _car(examples: Sequence[Example], keep: int, clusters: int | None, run_seed: int) -> Left:
    count = min(clusters or max(1, round((len(examples) / 2) ** 0.5)), keep)
    where = cluster(vectors([" ".join((e.question, *e.steps)) for e in examples]), count, run_seed)
    # Many scores are equal: their order is a draw, not that of their names.
    order = list(range(len(examples)))
    rng(run_seed, "car").shuffle(order)
    order.sort(key=lambda place: -quality(examples[place]))
    best = {int(where[place]): place for place in reversed(order)}
    chosen = set(best.values())
    for place in order:
        if len(chosen) >= keep:
            break
        chosen.add(place)
    return [
        (
            examples[place],
            RowError(
                "car-rank",
                f"quality {quality(examples[place]):.4f} is number {rank} of {len(order):,}; {keep:,} are kept",
            ),
        )
        for rank, place in enumerate(order, 1)
        if place not in chosen
    ]


def vectors(texts: Sequence[str]) -> Vectors:
    """Tf-idf of words and pairs of neighbouring words, hashed, of length 1; [texts, WIDTH], 0 for an empty text."""
    counts = np.zeros((len(texts), WIDTH), np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for term, often in Counter([*words, *map(" ".join, pairwise(words))]).items():
            # One hash gives the column, another bit of it the sign, so that collisions cancel in the mean.
            code = zlib.crc32(term.encode())
            counts[row, code % WIDTH] += often if code & 2**31 else -often
    weight = np.log((1 + len(texts)) / (1 + np.count_nonzero(counts, axis=0))) + 1
    scaled = counts * weight.astype(np.float32)
    size = np.linalg.norm(scaled, axis=1, keepdims=True)
    found: Vectors = scaled / np.where(size > 0, size, 1)
    return found


def cluster(points: Vectors, count: int, run_seed: int) -> NDArray[np.int64]:
    """Cluster of each point [n] by k-means from k-means++ starts; at most `count` clusters have points."""
    generator = np.random.default_rng(seed(run_seed, "clusters"))
    centres = points[[generator.integers(len(points))]]
    nearest = _distances(points, centres)[:, 0]
    while len(centres) < count and nearest.sum() > 0:
        centres = np.concatenate([centres, points[[generator.choice(len(points), p=nearest / nearest.sum())]]])
        nearest = np.minimum(nearest, _distances(points, centres[-1:])[:, 0])
    where: NDArray[np.int64] = _distances(points, centres).argmin(1)
    for _ in range(_ROUNDS):
        sums = np.zeros_like(centres)
        np.add.at(sums, where, points)
        sizes = np.bincount(where, minlength=len(centres))[:, None]
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
        before, where = where, _distances(points, centres).argmin(1)
        if np.array_equal(before, where):
            break
    return where


def _distances(points: Vectors, centres: Vectors) -> NDArray[np.float64]:
    """Squared distances [points, centres]."""
    products = points.astype(np.float64) @ centres.astype(np.float64).T
    ours, theirs = (np.square(x.astype(np.float64)).sum(1) for x in (points, centres))
    found: NDArray[np.float64] = np.maximum(ours[:, None] - 2 * products + theirs, 0)
    return found
