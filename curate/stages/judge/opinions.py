"""The judge's votes out of the table of judgements, and what they do to the train set's labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from curate.errors import RowError, UserError
from curate.recipe.sections import ConsensusConfig
from curate.seeds import digest
from curate.stages.judge import consensus, judgement
from curate.tables.rows import ExampleRow, columns_of
from curate.tables.schema import JUDGEMENTS
from curate.tables.store import Store


@columns_of(JUDGEMENTS)
@dataclass(frozen=True, slots=True)
class _ReadVote:
    """What a vote says of which steps."""

    rollout_id: str
    steps_digest: str
    first_error: int | None


@dataclass
class Opinions:
    """The judge's votes on the rollouts that it has seen, and what came of them."""

    votes: Mapping[str, Sequence[tuple[str, int | None]]]
    """Rollout -> (digest of the steps that were judged, first error) of each vote."""
    changed: int = 0
    """Rollouts whose steps are others now, so that the votes say nothing."""
    steps: Counter[str | None] = field(default_factory=Counter)
    """Labelled steps of training examples by why they are masked; null: they are not."""
    judged: int = 0
    """How many of these steps have a verdict."""

    @classmethod
    def of(cls, workspace: Store) -> Opinions:
        """Read the opinions of the table of judgements."""
        votes: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
        for row in workspace.rows(_ReadVote):
            votes[row.rollout_id].append((row.steps_digest, row.first_error))
        return cls(votes)

    def verdicts(self, rollout_id: str, steps: Sequence[str]) -> list[bool | None]:
        """Say for each step of a rollout what the majority of the votes says; null where there is none."""
        votes = self.votes.get(rollout_id, ())
        if votes and votes[0][0] != digest(steps):
            self.changed += 1
            votes = ()
        return judgement.majority([first for _, first in votes], len(steps))

    def mask(self, example: ExampleRow, config: ConsensusConfig) -> ExampleRow:
        """The training example with weight 0 and a reason where the judge disagrees; RowError when that is all."""
        values, verdicts = example.values, example.verdicts
        whole, unjudged = config.mask == "chains", config.unjudged == "mask"
        masks = consensus.masks(values, verdicts, config.threshold, whole, unjudged)
        labelled = [place for place, value in enumerate(values) if value is not None]
        self.steps.update(masks[place] for place in labelled)
        self.judged += sum(verdicts[place] is not None for place in labelled)
        if labelled and all(masks[place] for place in labelled):
            raise RowError(str(masks[labelled[0]]), "the judge agrees with none of its labels, see shard.consensus")
        weights = [0.0 if mask else weight for mask, weight in zip(masks, example.weights, strict=True)]
        return replace(example, weights=weights, masks=masks)

    def check(self) -> None:
        """UserError when there was nothing to compare labels with."""
        cure = "run `curate judge` with a judge section in the recipe, or leave shard.consensus out"
        if not self.votes:
            raise UserError(f"shard.consensus needs judgements, and there are none; {cure}.")
        if self.changed:
            raise UserError(
                f"{self.changed} rollouts have other steps than when they were judged; run `curate judge --replace`, "
                "or leave shard.consensus out."
            )
        if self.steps and not self.judged:
            raise UserError(
                "shard.consensus has no effect: no labelled step of the train set has a verdict that can be read; "
                f"{cure}."
            )

    def summary(self) -> str:
        """What was kept, in one sentence."""
        total, kept = self.steps.total(), self.steps[None]
        lost = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.steps.items(), key=str) if reason)
        return (
            f"Consensus: {kept:,} of {total:,} labelled steps of the train set are kept ({kept / max(total, 1):.1%}); "
            f"masked: {lost or 'none'}. {total - self.judged:,} have no verdict."
        )
