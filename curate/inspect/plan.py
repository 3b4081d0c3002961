"""What rollout and label of a recipe are going to cost: requests, tokens, hours and disk, before anything is spent.

Of a judge there are counts of votes alone: how much it writes is not known before it has.

What is known is measured: on the rollouts that are there, or on a pilot, which rolls out the first problems of each
domain (they are kept, a later run does not generate them again), completes the prefixes of a rollout of each (these are
not kept), and times the warm engine at both. Without either there are counts of requests, and tokens at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curate.engines.supervisor import Engines, Supervisor
from curate.inspect.chains import Chains, MeasuredRollout, brought
from curate.recipe.sections import HardLabels, JudgeConfig, LabelConfig, LegacyLabels, PooledLabels, RolloutConfig
from curate.runtime.reporter import Reporter
from curate.stages import rollout
from curate.stages.active import dropped
from curate.stages.label import label as labelling
from curate.stages.label import trial
from curate.stages.label.label import Group
from curate.tables.rows import ProblemRow
from curate.tables.schema import COMPLETIONS, JUDGEMENTS, ROLLOUTS, Table
from curate.tables.store import Store


@dataclass(frozen=True)
class Line:
    """One domain: what is still to be generated, prefixes and votes too. Null where nothing was measured."""

    domain: str
    role: str
    requests: int
    samples: int
    rollout_tokens: int | None
    prefixes: int | None
    completions: int | None
    label_tokens: int | None
    votes: int


@dataclass(frozen=True)
class CostPlan:
    """The whole of it; `max_tokens` is what the samples may take at most.

    Tokens per second come from a pilot: of rollouts, and of completions.
    """

    lines: tuple[Line, ...]
    max_tokens: int
    tokens_per_second: float | None
    label_tokens_per_second: float | None
    devices: int
    disk_bytes: int | None
    measured_on: int

    @property
    def tokens(self) -> int | None:
        """Rollout and label together; null where a domain has none measured."""
        parts = [part for line in self.lines for part in (line.rollout_tokens, line.label_tokens)]
        return None if any(part is None for part in parts) else sum(part or 0 for part in parts)

    @property
    def hours(self) -> float | None:
        """By the clock, at the pilot's speed."""
        if self.tokens is None:
            return None
        labels, speed = sum(line.label_tokens or 0 for line in self.lines), self.tokens_per_second
        label_speed = self.label_tokens_per_second or speed
        # A pilot has no speed of rollouts where all of them are there, such as imported ones.
        seconds = [
            tokens / each if each else None
            for tokens, each in ((self.tokens - labels, speed), (labels, label_speed))
            if tokens or each
        ]
        return None if None in seconds or not seconds else sum(part or 0.0 for part in seconds) / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all devices together."""
        return None if self.hours is None else self.hours * self.devices

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        more = {"tokens": self.tokens, "hours": self.hours, "gpu_hours": self.gpu_hours}
        return asdict(self) | more


@dataclass(frozen=True)
class Pilot:
    """What was measured on the warm engine: tokens per second of rollouts, and completions; null where there were none.

    Completions are asked for otherwise, with a longer prompt that the engine mostly knows, so they have a speed of
    their own.
    """

    tokens_per_second: float | None = None
    label: trial.LabelTrial | None = None

    @property
    def label_tokens_per_second(self) -> float | None:
        """Tokens of completions that are generated in a second."""
        tokens = 0 if self.label is None else self.label.tokens.total()
        return tokens / self.label.seconds if self.label is not None and tokens else None


def pilot(
    config: RolloutConfig,
    label: LabelConfig | None,
    workspace: Store,
    run_seed: int,
    count: int,
    reporter: Reporter,
) -> Pilot:
    """Roll out the first `count` problems of each domain, and complete prefixes of as many, unless `label` is null.

    UserError when another command writes to the workspace.
    """
    small = config.model_copy(update={"limit": min(count, config.limit or count)})

    async def nothing(_engine: Supervisor) -> None:
        await asyncio.sleep(0)

    with workspace.writing(), Engines() as engines:
        engines.run(config.engine, reporter.note, nothing)
        before, begin = _generated(workspace), time.perf_counter()
        rollout.run(small, workspace, run_seed, reporter, engines)
        seconds = time.perf_counter() - begin
        tried = trial.complete_some(label, config, workspace, run_seed, count, reporter, engines) if label else None
    tokens = _generated(workspace) - before
    return Pilot(tokens / seconds if tokens else None, tried)


def _generated(workspace: Store) -> int:
    return sum(value or 0 for value in workspace.partition(ROLLOUTS).read(["tokens"])["tokens"].to_pylist())


def make(
    config: RolloutConfig,
    label: LabelConfig | None,
    workspace: Store,
    run_seed: int,
    tried: Pilot | None = None,
    judge: JudgeConfig | None = None,
) -> CostPlan:
    """The plan from what is in the workspace and what a pilot measured."""
    tried = tried or Pilot()
    rollout.pending(config, workspace, run_seed)  # refuses what a run would refuse
    fresh, out = _fresh(rollout.RolloutWork(config, workspace), label), dropped(workspace)
    rows = list(workspace.partition(ROLLOUTS).rows(MeasuredRollout))
    known: dict[Group, list[MeasuredRollout]] = defaultdict(list)
    for row in [*rows, *(brought(workspace, label.roles) if label is not None else ())]:
        if row.problem_id not in out:
            known[row.role, row.domain].append(row)
    groups = sorted({*fresh, *known})
    fresh = {group: fresh.get(group, Fresh()) for group in groups}
    everything = Chains.of(rows)
    chains = {group: Chains.of(known.get(group, ())) or everything for group in groups}
    labels: dict[Group, Labels] = {}
    votes: dict[Group, int] = {}
    if label is not None:
        labelled = {group: chains[group] for group in groups if group[0] in label.roles}
        pending = labelling.pending(label, config, workspace, run_seed)
        labels = _labels(label, pending, labelled, {group: fresh[group].labelled for group in labelled}, tried.label)
        if judge is not None:
            votes = _votes(judge, label, workspace, known, fresh)
    nothing = Labels(0, 0, 0)
    lines = []
    for group in groups:
        one, like = fresh[group], chains[group]
        mean = 0.0 if not one.samples else None if like is None else like.tokens
        tokens = None if mean is None else round(one.samples * mean)
        of = labels.get(group, nothing)
        lines.append(
            Line(
                group[1], group[0], one.requests, one.samples, tokens,
                of.prefixes, of.completions, of.tokens, votes.get(group, 0),
            )
        )  # fmt: skip
    made = CostPlan(
        tuple(lines),
        sum(one.samples for one in fresh.values()) * config.sampling.max_tokens,
        tried.tokens_per_second,
        tried.label_tokens_per_second,
        int(config.engine.args.get("tensor_parallel_size", 1)) * max(len(config.engine.urls), 1),
        None,
        len(rows),
    )
    return CostPlan(**{**vars(made), "disk_bytes": _disk(made, workspace)})


@dataclass
class Fresh:
    """What is still to be rolled out of a domain: requests, samples, and how many of these are to be labelled."""

    requests: int = 0
    samples: int = 0
    labelled: int = 0


def _fresh(wanted: rollout.RolloutWork, label: LabelConfig | None) -> dict[Group, Fresh]:
    """Rollouts that are missing, for every domain that is wanted, also where none is."""
    found = {(row.role, row.domain): Fresh() for row in wanted.rows(ProblemRow)}
    for unit in wanted.pending():
        row, missing = unit.payload
        one = found[row.role, row.domain]
        one.requests += 1
        one.samples += len(missing)
        if label is not None and row.role in label.roles:
            one.labelled += sum(map(label.takes, missing))
    return found


def _votes(
    judge: JudgeConfig,
    label: LabelConfig,
    workspace: Store,
    known: Mapping[Group, Sequence[MeasuredRollout]],
    fresh: Mapping[Group, Fresh],
) -> dict[Group, int]:
    """Votes that are still missing, when all rollouts that are to be labelled are."""
    voted = Counter(workspace.partition(JUDGEMENTS).read(["rollout_id"])["rollout_id"].to_pylist())
    found = {}
    for group, new in fresh.items():
        if group[0] in {*judge.roles} & {*label.roles}:
            there = [row.rollout_id for row in known.get(group, ()) if label.takes(row.sample_index)]
            chains = len(there) + new.labelled
            done = sum(min(voted[name], judge.samples) for name in there)
            found[group] = max(min(chains, judge.limit or chains) * judge.samples - done, 0)
    return found


@dataclass(frozen=True)
class Labels:
    """What labels of a domain are still going to take: prefixes, completions of them, tokens of those."""

    prefixes: int | None
    completions: int | None
    tokens: int | None


def _labels(
    label: LabelConfig,
    pending: labelling.PrefixCounts,
    chains: Mapping[Group, Chains | None],
    fresh: Mapping[Group, int],
    tried: trial.LabelTrial | None,
) -> dict[Group, Labels]:
    """Costs of labelling: of rollouts that are there as a run counts them, of `fresh` ones by chains that are known."""
    prefixes: dict[Group, float] = {}
    tokens: dict[Group, float | None] = {}
    for group, like in chains.items():
        if like is not None or not fresh[group]:
            prefixes[group] = 0.0 if like is None else fresh[group] * like.prefixes / like.count
            tokens[group] = _tokens(group, like, pending, tried)
    shared = None
    budget = label.budget_tokens if isinstance(label, PooledLabels) else None
    if budget is not None and not pending.settled and any(fresh.values()):
        # Sizes are chosen when all rollouts are there.
        spent = sum((pending.prefixes[group] + prefixes[group]) * (tokens[group] or 0.0) for group in prefixes)
        shared = min(label.max_per_step, budget / spent) if spent else 0.0
    found = dict.fromkeys(chains, Labels(None, None, None))
    for group, new in prefixes.items():
        if shared is not None:
            completions = max((pending.prefixes[group] + new) * shared - pending.drawn[group], 0.0)
        else:
            there, each = float(pending.asked[group]), _looks(group, label, pending, tried)
            if each is not None:
                there = max(there, pending.open[group] * each - pending.begun[group])
            completions = there + new * (_size(group, label, pending) if each is None else each)
        each, count = tokens[group], round(completions)
        of_all = 0 if not count else None if each is None else round(count * each)
        found[group] = Labels(round(pending.open[group] + new), count, of_all)
    return found


def _tokens(
    group: Group, like: Chains | None, pending: labelling.PrefixCounts, tried: trial.LabelTrial | None
) -> float | None:
    """Mean tokens of a completion: those of a pilot, or those that are there; null where nothing was measured."""
    if tried is not None and tried.counted[group[1]]:
        return tried.tokens[group[1]] / tried.counted[group[1]]
    if pending.counted[group]:
        return pending.tokens[group] / pending.counted[group]
    if like is None:
        return None
    # What is left of a chain behind a prefix is as long as a completion of it, in the mean.
    return like.left / like.prefixes if like.left else None if like.prefixes else 0.0


def _looks(
    group: Group, label: LabelConfig, pending: labelling.PrefixCounts, tried: trial.LabelTrial | None
) -> float | None:
    """Completions a prefix, in the mean, by a rule that may stop before it has all; None for the others."""
    if not isinstance(label, HardLabels | LegacyLabels):
        return None
    if tried is not None and tried.completions[group[1]]:
        return tried.completions[group[1]] / tried.prefixes[group[1]]
    if pending.settled and (done := pending.prefixes[group] - pending.open[group]):
        return (pending.drawn[group] - pending.begun[group]) / done
    # At most: where another rule drew, those that are left may be the ones that need most.
    return label.max_per_step - isinstance(label, LegacyLabels)  # which counts the rollout itself


def _size(group: Group, label: LabelConfig, pending: labelling.PrefixCounts) -> float:
    """Completions a prefix, in the mean, by a rule that does not look at them."""
    if not isinstance(label, PooledLabels):
        return label.max_per_step
    if label.budget_tokens is None or not pending.prefixes[group]:
        return label.mean
    return (pending.drawn[group] + pending.asked[group]) / pending.prefixes[group]


def _disk(plan: CostPlan, workspace: Store) -> int | None:
    """Bytes of the tables to come, by what a token takes in those there are."""
    each = _bytes_per_token(workspace, ROLLOUTS)
    label = _bytes_per_token(workspace, COMPLETIONS) or each
    if each is None or label is None or plan.tokens is None:
        return None
    return round(sum((line.rollout_tokens or 0) * each + (line.label_tokens or 0) * label for line in plan.lines))


def _bytes_per_token(workspace: Store, table: Table) -> float | None:
    partition = workspace.partition(table)
    tokens = sum(value or 0 for value in partition.read(["tokens"])["tokens"].to_pylist())
    return sum(path.stat().st_size for path in partition.files()) / tokens if tokens else None


def summary(plan: CostPlan) -> str:
    """The sum in a few sentences, for people."""
    samples = sum(line.samples for line in plan.lines)
    if plan.tokens is None and plan.measured_on:
        return (
            f"{samples:,} samples, at most {plan.max_tokens:,} tokens in all; how many tokens those that are there "
            "have is not known, because their engine did not count them."
        )
    if plan.tokens is None:
        return (
            f"{samples:,} samples, at most {plan.max_tokens:,} tokens in all; nothing was generated yet to measure "
            "on, so labels cannot be estimated: use --pilot."
        )
    if not (samples or plan.tokens or any(line.votes for line in plan.lines)):
        return "Nothing is left to generate."
    on = f"{plan.measured_on:,} rollouts" if plan.measured_on else "completions"
    said = [f"About {plan.tokens:,} tokens, measured on {on}"]
    if plan.hours is not None:
        kinds = {"rollouts": plan.tokens_per_second, "completions": plan.label_tokens_per_second}
        speeds = [f"{speed:,.0f} tokens/s for {kind}" for kind, speed in kinds.items() if speed is not None]
        said.append(
            f"{plan.hours:.2g} hours on {plan.devices} device(s), {plan.gpu_hours:.2g} GPU-hours, at the pilot's "
            f"{' and '.join(speeds)} (a full load is faster)"
        )
    if plan.disk_bytes is not None:
        said.append(f"{plan.disk_bytes / 2**20:,.1f} MB on disk")
    return "; ".join(said) + "."
