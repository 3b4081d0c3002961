"""Examples and their images out of a workspace, and the checks that a training run must pass before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from curate.errors import RowError, UserError, did_you_mean
from curate.seeds import digest
from curate.tables import lineage
from curate.tables.rows import columns_of
from curate.tables.schema import EXAMPLES, IMAGES, PROBLEMS
from curate.tables.store import Store, among
from prm.config import DomainTraining, FrozenTraining, LearnedTraining, TrainConfig


@columns_of(EXAMPLES)
@dataclass(frozen=True)
class Example:
    """One labelled rollout. `values` and `weights` have one entry a step; a value is null where undefined, a weight 0
    where a second opinion disagrees (`curate.stages.judge.consensus`).
    """

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    sample_index: int
    question: str
    choices: Sequence[str]
    image_hashes: Sequence[str]
    steps: Sequence[str]
    values: Sequence[float | None]
    weights: Sequence[float]
    outcome: bool | None


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class ProblemOrigin:
    """Where a problem came from."""

    problem_id: str
    source: str
    source_row: str
    domain: str


def read_examples(workspace: Store, roles: Sequence[str]) -> list[Example]:
    """Examples of these roles, sorted by rollout."""
    return sorted(workspace.rows(Example, among("role", roles)), key=lambda example: example.rollout_id)


def read_images(workspace: Store, examples: Iterable[Example]) -> dict[str, bytes]:
    """Original bytes of every image that these examples show, by hash."""
    wanted = sorted({key for example in examples for key in example.image_hashes})
    table = workspace.read(IMAGES, ["image_hash", "bytes"], where=among("image_hash", wanted))
    return dict(zip(table["image_hash"].to_pylist(), table["bytes"].to_pylist(), strict=True))


def write_rejects(workspace: Store, stage: str, partition: str, left: Sequence[tuple[Example, RowError]]) -> None:
    """Examples that a stage could not use, with their reasons, into the `rejects` table."""
    where = among("problem_id", sorted({example.problem_id for example, _ in left}))
    problems = {row.problem_id: row for row in workspace.rows(ProblemOrigin, where)} if left else {}
    rows = [
        lineage.reject(stage, problems[one.problem_id], error, f"/{one.sample_index}{_harvested(one)}", one.rollout_id)
        for one, error in left
    ]
    lineage.write_rejects(workspace, partition, rows)


def _harvested(example: Example) -> str:
    """What tells the completion of a rollout, as a chain of its own, from the rollout; empty for the rollout."""
    _, dot, rest = example.rollout_id.partition(".")
    return dot + rest


def fingerprint(examples: Iterable[Example]) -> str:
    """Digest of everything that training reads from these examples."""
    return digest([[getattr(example, name) for name in Example.__dataclass_fields__] for example in examples])


def check_disjoint(examples: Sequence[Example]) -> None:
    """UserError when a problem or an image of the train set is also in the meta or test set, or of meta in test."""
    for what, keys_of in (
        ("problem", lambda example: (example.problem_id,)),
        ("image", lambda example: example.image_hashes),
    ):
        sets: dict[str, set[str]] = {"train": set(), "meta": set(), "test": set()}
        for example in examples:
            sets[example.role].update(keys_of(example))
        for one, other in (("train", "meta"), ("train", "test"), ("meta", "test")):
            shared = sorted(sets[one] & sets[other])
            if shared:
                raise UserError(
                    f"The {one} and {other} sets share {len(shared)} {what}(s), for example {shared[0]}; "
                    "take them out of one set and run `curate shard` again."
                )


def _check_names(weights: Mapping[str, float], domains: Sequence[str]) -> None:
    unknown, missing = sorted(set(weights) - set(domains)), sorted(set(domains) - set(weights))
    if unknown:
        raise UserError(
            f'`train.weights` names "{unknown[0]}", which is not a train domain{did_you_mean(unknown[0], domains)}'
        )
    if missing:
        raise UserError(f"`train.weights` has no weight for {', '.join(missing)}; give each train domain one.")


def check_trainable(train: Sequence[Example], meta: Sequence[Example], config: TrainConfig) -> None:
    """Check that these sets can be trained on in this mode; UserError when they cannot."""
    domains = sorted({example.domain for example in train})
    if not train:
        raise UserError("There is no train example with a labelled step; run `curate label` and `curate shard` first.")
    if isinstance(config, FrozenTraining):
        _check_names(config.weights, domains)
    if not isinstance(config, LearnedTraining):
        return
    if isinstance(config, DomainTraining) and len(domains) < 2:
        raise UserError(f"Only one train domain ({domains[0]}): add another, or train with mode uniform.")
    counts = Counter(example.outcome for example in meta)
    if not counts:
        raise UserError("There is no graded meta example; add a source with role meta, or train with mode uniform.")
    if len(counts) < 2:
        seen = "right" if counts[True] else "wrong"
        raise UserError(f"All {len(meta)} meta rollouts are {seen}, so they teach no weights; use other meta problems.")
