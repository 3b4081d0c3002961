"""What rollout and label of a recipe are going to cost: requests, tokens, hours and disk, before anything is spent.

Of a judge there are counts of votes alone: how much it writes is not known before it has.

What is known is measured: on the rollouts that are there, or on a pilot, which rolls out the first problems of each
domain (they are kept, a later run does not generate them again), completes the prefixes of a rollout of each (these are
not kept), and times the warm engine at both. Without either there are counts of requests, and tokens at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curate import label as labelling
from curate import rollout
from curate.engines.keeper import Engines, Keeper
from curate.schema import COMPLETIONS, ROLLOUTS, Row, Table
from curate.sections import JudgeConfig, LabelConfig, RolloutConfig
from curate.stage import Reporter
from curate.store import Workspace

Group = tuple[str, str]
# A completion's row has the text and tokens of a part of a chain; where none is stored yet, it is taken as long as a
# rollout's of as many tokens.
_COLUMNS = ("role", "domain", "steps", "step_ends", "tokens")


@dataclass(frozen=True)
class Chains:
    """What chains of one domain were like: how many, their tokens, their prefixes, and what is left after those."""

    count: int
    tokens: int
    prefixes: int
    left: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Chains:
        """From rows of `rollouts`."""
        ends = [row["step_ends"] for row in rows]
        return cls(
            len(rows),
            sum(row["tokens"] or 0 for row in rows),
            sum(max(len(row["steps"]) - 1, 0) for row in rows),
            sum(each[-1] - end for each in ends if each for end in each[:-1]),
        )


@dataclass(frozen=True)
class Line:
    """One domain. Tokens are of what is still to be generated; null where nothing was measured."""

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
class Plan:
    """The whole of it; `most_tokens` is what the samples may take at most.

    Tokens per second come from a pilot: of rollouts, and of completions.
    """

    lines: tuple[Line, ...]
    most_tokens: int
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
        if self.tokens is None or not self.tokens_per_second:
            return None
        labels = sum(line.label_tokens or 0 for line in self.lines)
        label_speed = self.label_tokens_per_second or self.tokens_per_second
        return ((self.tokens - labels) / self.tokens_per_second + labels / label_speed) / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Of all devices."""
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
    label: labelling.Trial | None = None

    @property
    def label_tokens_per_second(self) -> float | None:
        """Of completions."""
        tokens = 0 if self.label is None else self.label.tokens.total()
        return tokens / self.label.seconds if self.label is not None and tokens else None


def pilot(
    config: RolloutConfig,
    label: LabelConfig | None,
    workspace: Workspace,
    run_seed: int,
    count: int,
    reporter: Reporter,
) -> Pilot:
    """Roll out the first `count` problems of each domain, and complete prefixes of as many, unless `label` is null."""
    small = config.model_copy(update={"limit": min(count, config.limit or count)})

    async def nothing(_engine: Keeper) -> None:
        await asyncio.sleep(0)

    with Engines() as engines:
        engines.run(config.engine, reporter.note, nothing)
        before, begin = _generated(workspace), time.perf_counter()
        rollout.run(small, workspace, run_seed, reporter, engines)
        seconds = time.perf_counter() - begin
        tried = labelling.trial(label, config, workspace, run_seed, count, reporter, engines) if label else None
    tokens = _generated(workspace) - before
    return Pilot(tokens / seconds if tokens else None, tried)


def _generated(workspace: Workspace) -> int:
    return sum(value or 0 for value in workspace.partition(ROLLOUTS).read(["tokens"])["tokens"].to_pylist())


def make(
    config: RolloutConfig,
    label: LabelConfig | None,
    workspace: Workspace,
    run_seed: int,
    tried: Pilot | None = None,
    judge: JudgeConfig | None = None,
) -> Plan:
    """The plan from what is in the workspace and what a pilot measured."""
    tried = tried or Pilot()
    rollout.owed(config, workspace, run_seed)  # refuses what a run would refuse
    wanted = rollout.Wanted(config, workspace)
    owed: dict[Group, list[int]] = defaultdict(lambda: [0, 0])
    samples: dict[Group, int] = defaultdict(int)
    for row in wanted.rows():
        per = config.samples_for(row["role"])
        samples[row["role"], row["domain"]] += min(per, label.rollouts or per) if label else per
    for _, row, missing in wanted.owed():
        owed[row["role"], row["domain"]][0] += 1
        owed[row["role"], row["domain"]][1] += len(missing)
    rows = workspace.partition(ROLLOUTS).read(_COLUMNS).to_pylist()
    known: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        known[row["role"], row["domain"]].append(row)
    everything = Chains.of(rows) if rows else None
    lines = []
    for group in sorted(samples):
        chains = Chains.of(known[group]) if known[group] else everything
        labelled = label if label is not None and group[0] in label.roles else None
        votes = _votes(judge, samples[group]) if judge is not None and group[0] in judge.roles and labelled else 0
        lines.append(_line(group, owed[group], samples[group], chains, labelled, tried.label, votes))
    made = Plan(
        tuple(lines),
        sum(count for _, count in owed.values()) * config.sampling.max_tokens,
        tried.tokens_per_second,
        tried.label_tokens_per_second,
        int(config.engine.args.get("tensor_parallel_size", 1)) * max(len(config.engine.urls), 1),
        None,
        len(rows),
    )
    return Plan(**{**vars(made), "disk_bytes": _disk(made, workspace)})


def _votes(judge: JudgeConfig, chains: int) -> int:
    return min(chains, judge.limit or chains) * judge.samples


def _line(
    group: Group,
    owed: Sequence[int],
    samples: int,
    chains: Chains | None,
    label: LabelConfig | None,
    tried: labelling.Trial | None,
    votes: int,
) -> Line:
    role, domain = group
    requests, missing = owed
    prefixes = completions = label_tokens = None
    if label is None:
        prefixes = completions = label_tokens = 0
    elif chains is not None:
        prefixes = round(samples * chains.prefixes / chains.count)
        each, tokens = _completions(domain, chains, label, tried)
        completions = round(prefixes * each)
        label_tokens = round(completions * tokens)
    rollout_tokens = None if chains is None else round(missing * chains.tokens / chains.count)
    return Line(domain, role, requests, missing, rollout_tokens, prefixes, completions, label_tokens, votes)


def _completions(domain: str, chains: Chains, label: LabelConfig, tried: labelling.Trial | None) -> tuple[float, float]:
    """(completions a prefix, tokens a completion) in the mean."""
    each: float = label.mean if label.mode == "pooled" else label.most
    if tried is None or not tried.completions[domain]:
        # What is left of a chain behind a prefix is as long as a completion of it, in the mean.
        return each, chains.left / chains.prefixes if chains.prefixes else 0.0
    if label.mode in ("hard", "legacy"):
        # They stop before they have all.
        each = tried.completions[domain] / tried.prefixes[domain]
    return each, tried.tokens[domain] / tried.completions[domain]


def _disk(plan: Plan, workspace: Workspace) -> int | None:
    """Bytes of the tables to come, by what a token takes in those there are."""
    each = _bytes_per_token(workspace, ROLLOUTS)
    label = _bytes_per_token(workspace, COMPLETIONS) or each
    if each is None or label is None or plan.tokens is None:
        return None
    return round(sum((line.rollout_tokens or 0) * each + (line.label_tokens or 0) * label for line in plan.lines))


def _bytes_per_token(workspace: Workspace, table: Table) -> float | None:
    partition = workspace.partition(table)
    tokens = sum(value or 0 for value in partition.read(["tokens"])["tokens"].to_pylist())
    return sum(path.stat().st_size for path in partition.files()) / tokens if tokens else None


def summary(plan: Plan) -> str:
    """The sum in a few sentences, for people."""
    samples = sum(line.samples for line in plan.lines)
    if plan.tokens is None:
        return (
            f"{samples:,} samples, at most {plan.most_tokens:,} tokens in all; nothing was generated yet to measure "
            "on, so labels cannot be estimated: use --pilot."
        )
    said = [f"About {plan.tokens:,} tokens, measured on {plan.measured_on:,} rollouts"]
    if plan.hours is not None:
        speed = plan.label_tokens_per_second
        labels = "" if speed is None else f" for rollouts and {speed:,.0f} for completions"
        said.append(
            f"{plan.hours:.2g} hours on {plan.devices} device(s), {plan.gpu_hours:.2g} GPU-hours, at the pilot's "
            f"{plan.tokens_per_second:,.0f} tokens/s{labels} (a full load is faster)"
        )
    if plan.disk_bytes is not None:
        said.append(f"{plan.disk_bytes / 2**20:,.1f} MB on disk")
    return "; ".join(said) + "."
