"""What rollout and label of a recipe are going to cost: requests, tokens, hours and disk, before anything is spent.

Of a judge there are counts of votes alone: how much it writes is not known before it has.

What is known is measured: on the rollouts that are there, or on a pilot, which rolls out the first problems of each
domain (they are kept, a later run does not generate them again) and times the warm engine. Without either there are
counts of requests, and tokens at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    """The whole of it; `tokens_per_second` comes from a pilot, `most_tokens` is what the samples may take at most."""

    lines: tuple[Line, ...]
    most_tokens: int
    tokens_per_second: float | None
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
        return (
            self.tokens / self.tokens_per_second / 3600 if self.tokens is not None and self.tokens_per_second else None
        )

    @property
    def gpu_hours(self) -> float | None:
        """Of all devices."""
        return None if self.hours is None else self.hours * self.devices

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        more = {"tokens": self.tokens, "hours": self.hours, "gpu_hours": self.gpu_hours}
        return asdict(self) | more


def pilot(config: RolloutConfig, workspace: Workspace, run_seed: int, count: int, reporter: Reporter) -> float | None:
    """Roll out the first `count` problems of each domain; tokens per second of the warm engine, null for none."""
    small = config.model_copy(update={"limit": min(count, config.limit or count)})

    async def nothing(_engine: Keeper) -> None:
        await asyncio.sleep(0)

    with Engines() as engines:
        engines.run(config.engine, reporter.note, nothing)
        before, begin = _generated(workspace), time.perf_counter()
        rollout.run(small, workspace, run_seed, reporter, engines)
        seconds = time.perf_counter() - begin
    tokens = _generated(workspace) - before
    return tokens / seconds if tokens else None


def _generated(workspace: Workspace) -> int:
    return sum(value or 0 for value in workspace.partition(ROLLOUTS).read(["tokens"])["tokens"].to_pylist())


def make(
    config: RolloutConfig,
    label: LabelConfig | None,
    workspace: Workspace,
    run_seed: int,
    speed: float | None = None,
    judge: JudgeConfig | None = None,
) -> Plan:
    """The plan from what is in the workspace; `speed` is a pilot's."""
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
        lines.append(_line(group, owed[group], samples[group], chains, labelled, votes))
    made = Plan(
        tuple(lines),
        sum(count for _, count in owed.values()) * config.sampling.max_tokens,
        speed,
        int(config.engine.args.get("tensor_parallel_size", 1)) * max(len(config.engine.urls), 1),
        None,
        len(rows),
    )
    return Plan(**{**vars(made), "disk_bytes": _disk(made, workspace)})


def _votes(judge: JudgeConfig, chains: int) -> int:
    return min(chains, judge.limit or chains) * judge.samples


def _line(
    group: Group, owed: Sequence[int], samples: int, chains: Chains | None, label: LabelConfig | None, votes: int
) -> Line:
    role, domain = group
    requests, missing = owed
    prefixes = completions = label_tokens = None
    if label is None:
        prefixes = completions = label_tokens = 0
    elif chains is not None:
        prefixes = round(samples * chains.prefixes / chains.count)
        each = label.mean if label.mode == "pooled" else label.most
        completions = round(prefixes * each)
        label_tokens = round(completions * chains.left / chains.prefixes) if chains.prefixes else 0
    tokens = None if chains is None else round(missing * chains.tokens / chains.count)
    return Line(domain, role, requests, missing, tokens, prefixes, completions, label_tokens, votes)


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
        said.append(
            f"{plan.hours:.2g} hours on {plan.devices} device(s), {plan.gpu_hours:.2g} GPU-hours, at the pilot's "
            f"{plan.tokens_per_second:,.0f} tokens/s (a full load is faster)"
        )
    if plan.disk_bytes is not None:
        said.append(f"{plan.disk_bytes / 2**20:,.1f} MB on disk")
    return "; ".join(said) + "."
