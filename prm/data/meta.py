"""The meta set: what the upper level is evaluated on at each of its steps, and the control that takes its signal away.

An item is what one term of the meta loss is about. Three kinds, by the setting `upper.loss`; a package adds another, an
`UpperLoss` in the entry point group `prm.upper_losses`:

- `outcome`: one rollout; its score against its outcome (DreamPRM, arXiv 2505.20241). It asks for calibrated scores, so
  a domain whose labels are low in general moves it too, whatever those labels say about single steps.
- `pairs`: a right and a wrong rollout of the same problem; the right one's score should be above. Nothing that moves
  both scores alike is felt, and it is what best-of-N needs.
- `auroc`: a right and a wrong rollout of any problems; a smooth form of 1 - AUROC over the whole meta set. It feels
  labels that are all wrong alike, which no pair within a problem does: they put the right rollouts of their kind of
  problem below the wrong ones of others. Moving all scores alike is not felt.

The null control deals the outcomes anew: within each problem for `pairs`, so that the same problems give pairs; over
all rollouts for the others. The pair loss and its mirror image add up to 1 for any scores, so a control of pairs has no
expected gradient: weights move by noise alone and the null band lies around 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from curate.errors import UserError
from curate.seeds import rng
from prm.data.batches import EvenBatches

if TYPE_CHECKING:
    from torch import Tensor

Item = tuple[str, ...]


class MetaSet(Protocol):
    """Items by upper step: a pure function of the seed and the step."""

    def items(self, step: int) -> list[Item]: ...


def _stream(
    names: Sequence[str], domain_of: Mapping[str, str], count: int, seed: int, called: str = "meta"
) -> EvenBatches:
    """`count` of these a step, each step with every domain of the meta set in proportion."""
    strata: dict[str, list[str]] = {}
    for name in names:
        strata.setdefault(domain_of.get(name, ""), []).append(name)
    return EvenBatches(called, {called: strata}, count, seed)


class Singles:
    """Each rollout by itself, `count` a step, walked through in a fresh order each epoch.

    `domain_of` maps rollouts to domains of the meta set; each step has of every one its share.
    """

    def __init__(self, names: Sequence[str], count: int, seed: int, domain_of: Mapping[str, str] | None = None) -> None:
        self._stream = _stream(names, domain_of or {}, count, seed)

    def items(self, step: int) -> list[Item]:
        """Items (rollout,) of a step."""
        return [(name,) for name in self._stream.rows(step)["meta"]]


class Pairs:
    """A (right, wrong) pair from each of `count` problems a step; every problem that has one comes once an epoch."""

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        outcomes: Mapping[str, bool],
        count: int,
        seed: int,
        domain_of: Mapping[str, str] | None = None,
    ) -> None:
        """`groups` maps a problem to its rollouts, `domain_of` to its domain in the meta set, of which each step has
        its share. UserError when no problem has both a right and a wrong rollout.
        """
        self.seed = seed
        self.sides = {
            problem: tuple([name for name in sorted(names) if outcomes[name] is side] for side in (True, False))
            for problem, names in groups.items()
            if len({outcomes[name] for name in names}) == 2
        }
        if not self.sides:
            raise UserError(
                "No meta problem has both a right and a wrong rollout, so there are no pairs; sample more rollouts of "
                "each (`rollout.samples`), or set `train.upper.loss` to outcome."
            )
        self._stream = _stream(list(self.sides), domain_of or {}, count, seed)

    def items(self, step: int) -> list[Item]:
        """Items (right rollout, wrong rollout) of a step."""
        found = []
        for place, problem in enumerate(self._stream.rows(step)["meta"]):
            draw = rng(self.seed, "meta-pair", problem, step, place)
            found.append(tuple(draw.choice(side) for side in self.sides[problem]))
        return found


class AnyPairs:
    """`count` (right, wrong) pairs a step from all rollouts; each side is walked through in a fresh order each epoch.

    `domain_of` maps rollouts to domains of the meta set; each step has on either side of every one its share.
    """

    def __init__(
        self, outcomes: Mapping[str, bool], count: int, seed: int, domain_of: Mapping[str, str] | None = None
    ) -> None:
        sides = {side: [name for name in outcomes if outcomes[name] is side] for side in (True, False)}
        self._right, self._wrong = (
            _stream(names, domain_of or {}, count, seed, "meta-right" if side else "meta-wrong")
            for side, names in sides.items()
        )

    def items(self, step: int) -> list[Item]:
        """Items (right rollout, wrong rollout) of a step."""
        ((right,), (wrong,)) = (stream.rows(step).values() for stream in (self._right, self._wrong))
        # Both are spread over the domains in like manner; paired place by place, like would meet like.
        rng(self._wrong.seed, "meta-any-pair", step).shuffle(wrong)
        return list(zip(right, wrong, strict=True))


def shuffled_outcomes(groups: Sequence[Sequence[str]], outcomes: Mapping[str, bool], seed: int) -> dict[str, bool]:
    """Outcomes dealt anew among the rollouts of each group: a meta set without signal, with the same counts."""
    shuffled: dict[str, bool] = {}
    for names in sorted(sorted(names) for names in groups):
        dealt = [outcomes[name] for name in names]
        rng(seed, "null-control", names[0]).shuffle(dealt)
        shuffled |= zip(names, dealt, strict=True)
    return shuffled


@dataclass(frozen=True)
class MetaRollouts:
    """The rollouts of the meta set: whether each is right, which are of a problem, and the domain of each."""

    outcomes: Mapping[str, bool]
    problems: Mapping[str, Sequence[str]]
    domain_of: Mapping[str, str]


def _singles(meta: MetaRollouts, count: int, seed: int) -> MetaSet:
    return Singles(list(meta.outcomes), count, seed, meta.domain_of)


def _nothing(_meta: MetaRollouts) -> str | None:
    """All rollouts are of use."""
    return None


@dataclass(frozen=True)
class UpperLoss:
    """What the meta set asks for.

    `loss` gives the loss of one item, a scalar with a gradient, from the logits of its rollouts' scores and their
    outcomes, both in the item's order. An item has `rollouts` rollouts. `meta_set` draws so many items a step, by a
    seed; each rollout by itself where nothing else is said. The null control deals outcomes anew `within_problems`, or
    over all rollouts. `note` says how much of the meta set is of use, if that needs saying; UserError when nothing is.
    """

    loss: Callable[[Sequence[Tensor], Sequence[bool]], Tensor]
    rollouts: int = 1
    meta_set: Callable[[MetaRollouts, int, int], MetaSet] = _singles
    within_problems: bool = False
    note: Callable[[MetaRollouts], str | None] = _nothing

    def shuffled(self, meta: MetaRollouts, seed: int) -> MetaRollouts:
        """The meta set of a null control: the same rollouts, whose outcomes say nothing."""
        groups = list(meta.problems.values()) if self.within_problems else [list(meta.outcomes)]
        return replace(meta, outcomes=shuffled_outcomes(groups, meta.outcomes, seed))


# The losses themselves need torch, which reading a recipe does not.
def _outcome_loss(scores: Sequence[Tensor], outcomes: Sequence[bool]) -> Tensor:
    from prm.losses import outcome_loss

    return outcome_loss(scores[0], outcomes[0])


def _pair_loss(scores: Sequence[Tensor], outcomes: Sequence[bool]) -> Tensor:
    """Loss of a pair, whose right rollout comes first."""
    from prm.losses import pair_loss

    return pair_loss(*scores)


def _pairs(meta: MetaRollouts, count: int, seed: int) -> Pairs:
    domains = {problem: meta.domain_of[names[0]] for problem, names in meta.problems.items()}
    return Pairs(meta.problems, meta.outcomes, count, seed, domains)


def _pairs_note(meta: MetaRollouts) -> str:
    used, total = len(_pairs(meta, 1, 0).sides), len(meta.problems)
    return f"Pairs: {used:,} of {total:,} meta problems have both right and wrong rollouts; the others say nothing."


def _any_pairs(meta: MetaRollouts, count: int, seed: int) -> AnyPairs:
    return AnyPairs(meta.outcomes, count, seed, meta.domain_of)


OUTCOME = UpperLoss(_outcome_loss)
PAIRS = UpperLoss(_pair_loss, 2, _pairs, within_problems=True, note=_pairs_note)
AUROC = UpperLoss(_pair_loss, 2, _any_pairs)
