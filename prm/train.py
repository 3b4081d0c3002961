"""Stage: examples in, trained PRMs and weights per update out.

There are `seeds` real runs (`seed-0`, ...) and `null_runs` controls (`null-0`, ...) on the same batches with the meta
outcomes shuffled: where weights end when the meta set says nothing. Runs are done one after the other; a finished run
is never done again, and one that was stopped goes on from its last checkpoint.

In a team of processes (`prm.team`) all do each run together, and the one that leads does all writing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from curate import lineage
from curate.engines.models import fingerprint as model_fingerprint
from curate.errors import Interrupted, RowError, UserError
from curate.lineage import Ledger
from curate.schema import EXAMPLES, ROLLOUT_WEIGHTS, UPDATES, Row
from curate.seeds import digest
from curate.store import Partition, Workspace
from prm import account, checkpoint, subset
from prm.aggregate import aggregation
from prm.batches import Pooled, Stream
from prm.bilevel import Bilevel, Update, learning_rate
from prm.config import PER_ROLLOUT, SELECTED, TrainConfig
from prm.encode import Encoded, Encoder, load_processor
from prm.examples import (
    Example,
    check_disjoint,
    check_trainable,
    fingerprint,
    read_examples,
    read_images,
    write_rejects,
)
from prm.lora import adapt, halve
from prm.meta import MetaSet, Pairs, Singles, shuffled_outcomes
from prm.model import Prm
from prm.objective import PrmObjective
from prm.saved import Card, model_folder, save_model
from prm.stop import Stop, stopping
from prm.team import ALONE, Team

STAGE = "train"
REPLACE = "prm train --replace"
# Of the configuration, what does not change a run.
_FREE = {"model", "revision", "seeds", "null_runs", "checkpoint_every", "cache_megabytes", "sharding", "checkpointing"}

OnStep = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class RunResult:
    """What came of one run. `there` when it had been finished before."""

    run: str
    null_control: bool
    there: bool
    weights: Mapping[str, float]
    skipped_updates: int = 0
    clipped_steps: int = 0


@dataclass
class TrainResult:
    """What came of the stage: the ledger counts examples of the train and meta sets."""

    ledger: Ledger
    runs: list[RunResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Data:
    """What every run reads: encoded rows by rollout, and which of them are for what.

    `pooled` is the number of rows in a batch when they are drawn from all domains as one pool (chosen rollouts).
    """

    encoder: Encoder
    rows: Mapping[str, Encoded]
    train: Mapping[str, Sequence[str]]
    outcomes: Mapping[str, bool]
    fingerprint: str
    pooled: int | None = None

    def meta_problems(self) -> dict[str, list[str]]:
        """Problem -> its rollouts, of the meta set."""
        problems: dict[str, list[str]] = {}
        for name in self.outcomes:
            problems.setdefault(self.rows[name].example.problem_id, []).append(name)
        return problems


@dataclass(frozen=True)
class _Plan:
    """One run to do."""

    name: str
    seed: int
    null_control: bool


def _nobody(run: str, step: int, total: int, info: dict[str, float]) -> None:
    """Tells nobody."""


def plans(config: TrainConfig, run_seed: int) -> list[_Plan]:
    """The runs of a configuration. Only modes that learn weights have null controls."""
    real = [_Plan(f"seed-{i}", run_seed + i, False) for i in range(config.seeds)]
    controls = config.null_runs if config.learns else 0
    return real + [_Plan(f"null-{i}", run_seed + i, True) for i in range(controls)]


def prepare(config: TrainConfig, workspace: Workspace, run_seed: int = 0, team: Team = ALONE) -> tuple[Data, Ledger]:
    """Read, check, encode and, in the modes that do, choose the examples; UserError when they cannot be trained on."""
    examples = read_examples(workspace, ("train", "meta", "test"))
    check_disjoint(examples)
    used = [example for example in examples if example.role != "test"]
    processor = load_processor(config.model, config.revision)
    images = read_images(workspace, used)
    encoder = Encoder(processor, images, config.instruction, config.max_length, config.cache_megabytes)
    rows, left = _encode(used, encoder)
    pooled = None
    if config.mode in SELECTED:
        usable = [row.example for row in rows.values() if row.example.role == "train"]
        # A batch is as large as it would be without the choice.
        pooled = config.rows_per_domain * len({example.domain for example in usable})
        out = subset.choose(config.mode, usable, config.subset, run_seed)
        rows = {name: row for name, row in rows.items() if name not in {example.rollout_id for example, _ in out}}
        left += out
    if team.leads:
        write_rejects(workspace, STAGE, STAGE, left)
    rejected = Counter(error.reason for _, error in left)
    train = [row.example for row in rows.values() if row.example.role == "train"]
    outcomes = {name: bool(row.example.outcome) for name, row in rows.items() if row.example.role == "meta"}
    check_trainable(train, [rows[name].example for name in outcomes], config.mode, config.weights)
    groups: dict[str, list[str]] = {}
    for example in train:
        groups.setdefault(example.domain, []).append(example.rollout_id)
    ledger = Ledger("examples", taken=len(used), out=len(rows), rejected=dict(rejected))
    ledger.check(STAGE)
    return Data(encoder, rows, groups, outcomes, fingerprint(used), pooled), ledger


def _encode(examples: Sequence[Example], encoder: Encoder) -> tuple[dict[str, Encoded], list[tuple[Example, RowError]]]:
    rows: dict[str, Encoded] = {}
    left: list[tuple[Example, RowError]] = []
    for example in examples:
        try:
            encoded = encoder.encode(example)
            _check_targets(encoded)
        except RowError as error:
            left.append((example, error))
        else:
            rows[example.rollout_id] = encoded
    return rows, left


def _check_targets(row: Encoded) -> None:
    example = row.example
    if example.role == "meta":
        if example.outcome is None:
            raise RowError("undecided", "a meta example without outcome")
        return
    if not any(v is not None and read is not None for v, read in zip(example.values, row.reads, strict=True)):
        raise RowError("no-label", "no step with both text and a label")


def run(
    config: TrainConfig,
    workspace: Workspace,
    run_seed: int,
    on_step: OnStep = _nobody,
    replace: bool = False,
    team: Team = ALONE,
) -> TrainResult:
    """Train what is owed. `on_step(run, step, steps, info)` hears of every lower step, info by name.

    UserError when the sets cannot be trained on, or a run was made with other settings and `replace` is off;
    Interrupted after a Ctrl+C (of any process), with the state saved.
    """
    team = team.arranged(config.sharding)
    if team.size > 1 and config.mode in PER_ROLLOUT:
        raise UserError(f"train.mode {config.mode} runs as one process; start it without torchrun.")
    with team.gate():
        aggregation(config.aggregation)
        if not workspace.files(EXAMPLES):
            raise UserError("The workspace has no examples; run `curate shard` first.")
        data, ledger = prepare(config, workspace, run_seed, team)
        chosen = subset.notes(config.mode, data.train, ledger.rejected)
        result = TrainResult(ledger, notes=[*_pair_notes(config, data, run_seed), *chosen])
    with stopping() as stop:
        for plan in plans(config, run_seed):
            result.runs.append(_run(plan, config, workspace, data, ledger, on_step, stop, replace, team))
    ledger.skipped = ledger.out if all(one.there for one in result.runs) else 0
    return result


def _pair_notes(config: TrainConfig, data: Data, run_seed: int) -> list[str]:
    """How much of the meta set pairs can use; UserError when that is nothing."""
    if not config.learns or config.upper.loss != "pairs":
        return []
    problems = data.meta_problems()
    used, total = len(Pairs(problems, data.outcomes, 1, run_seed).sides), len(problems)
    return [f"Pairs: {used:,} of {total:,} meta problems have both right and wrong rollouts; the others say nothing."]


def _settings(plan: _Plan, config: TrainConfig, data: Data) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_FREE) | {
        # A folder counts by its content, wherever it lies.
        "model": model_fingerprint(config.model, config.revision),
        "run_seed": plan.seed,
        "null_control": plan.null_control,
        "data": data.fingerprint,
    }


def _run(
    plan: _Plan,
    config: TrainConfig,
    workspace: Workspace,
    data: Data,
    ledger: Ledger,
    on_step: OnStep,
    stop: Stop,
    replace: bool,
    team: Team,
) -> RunResult:
    partition, folder = workspace.partition(UPDATES, plan.name), model_folder(workspace, plan.name)
    settings = _settings(plan, config, data)
    there = False
    with team.gate():
        if team.leads:
            if replace:
                partition.clear()
                workspace.partition(ROLLOUT_WEIGHTS, plan.name).clear()
                shutil.rmtree(folder, ignore_errors=True)
            record = lineage.guard(partition, settings, REPLACE)
            there = record is not None and record["complete"]
    if team.any(there):
        on_step(plan.name, config.steps, config.steps, {})
        return RunResult(plan.name, plan.null_control, True, _last_weights(partition))
    with team.gate():
        prm, state = start(plan.seed, plan.null_control, config, data, team)
    with team.gate():
        # Only now: a start that failed leaves nothing behind that other settings would clash with.
        if team.leads:
            lineage.write(partition, STAGE, settings, {"examples": ledger.out})
    rows = _drive(plan, config, prm, state, partition, digest(settings), on_step, stop)
    whole = team.whole(prm, lambda: load_model(config))
    with team.gate():
        if team.leads:
            if not plan.null_control:
                save_model(whole, folder, data.encoder, Card.of(plan.name, config))
            # A kill between a commit and the lineage record leaves rows that the repeated end writes again.
            for path in partition.files():
                path.with_suffix(".done").unlink()
            account.write(workspace, plan.name, plan.null_control, state.rollouts, data.rows, settings)
            partition.commit_all(rows)
            extra = {"device": str(state.parameters[0].device), "skipped_updates": str(state.skipped)}
            extra |= {"processes": str(team.size)} if team.size > 1 else {}
            lineage.write(partition, STAGE, settings, {"examples": ledger.out}, ledger, extra)
            _checkpoint_path(partition).unlink(missing_ok=True)
    return RunResult(plan.name, plan.null_control, False, state.weights(), state.skipped, state.clipped)


def load_model(config: TrainConfig) -> Prm:
    """The PRM of a configuration as it lies in its folder."""
    return Prm.load(config.model, config.revision, config.freeze_vision, config.cache_megabytes)


def start(seed: int, null_control: bool, config: TrainConfig, data: Data, team: Team = ALONE) -> tuple[Prm, Bilevel]:
    """A fresh PRM and the state of its run."""
    prm = load_model(config)
    right, wrong = (
        (data.encoder.token(token) for token in config.label_tokens) if config.head == "label-token" else (0, 0)
    )
    prm.start_head(config.head, right, wrong, seed)
    if config.lora is not None:
        adapt(prm.base, prm.layers(), config.lora, seed)
    if config.lora is not None and config.precision == "bfloat16":
        halve(prm.base)
    team.place(prm, team.device(_device(config.device)), prm.layers())
    prm.use_precision(config.precision)
    if config.compile:
        prm.use_compile()
    if config.checkpointing:
        prm.use_checkpointing()
    outcomes, meta = meta_set(data, config, seed, null_control) if config.learns else ({}, None)
    objective = PrmObjective(
        prm, data.encoder, data.rows, outcomes, config.loss, aggregation(config.aggregation), config.micro_rows
    )
    train = (
        Stream("train", data.train, config.rows_per_domain, seed)
        if data.pooled is None
        else Pooled("train", data.train, data.pooled, seed)
    )
    return prm, Bilevel(config, objective, prm.trained(), train, meta, team)


def meta_set(data: Data, config: TrainConfig, seed: int, null_control: bool) -> tuple[Mapping[str, bool], MetaSet]:
    """Outcomes of the meta rollouts, as they are or without signal, and what an upper step draws of them."""
    problems, pairs, outcomes = data.meta_problems(), config.upper.loss == "pairs", data.outcomes
    if null_control:
        outcomes = shuffled_outcomes(list(problems.values()) if pairs else [list(outcomes)], outcomes, seed)
    if pairs:
        return outcomes, Pairs(problems, outcomes, config.upper.meta_rows // 2, seed)
    return outcomes, Singles(list(outcomes), config.upper.meta_rows, seed)


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("`train.device` is cuda and there is no usable GPU; set it to auto or cpu.")
    return name if name != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")


def _checkpoint_path(partition: Partition) -> Path:
    return partition.folder / "checkpoint.safetensors"


def _drive(
    plan: _Plan,
    config: TrainConfig,
    prm: Prm,
    state: Bilevel,
    partition: Partition,
    stamp: str,
    on_step: OnStep,
    stop: Stop,
) -> list[Row]:
    """Run to the end, or to a Ctrl+C; returns all update rows of the run. A checkpoint is of the run `stamp`."""
    path, names = _checkpoint_path(partition), [name for name, _ in prm.trained_names()]
    rows = checkpoint.load(path, state, names, stamp)
    if rows is None:
        rows = _rows(plan, state.first())
    state.agree()
    while state.done < config.steps:
        update = state.step()
        if update is not None:
            rows.extend(_rows(plan, update))
        on_step(plan.name, state.done, config.steps, _info(config, state, update))
        ends = state.team.any(stop.asked)
        if ends or state.done % config.checkpoint_every == 0 or state.done == config.steps:
            state.agree()
        if ends or (state.done % config.checkpoint_every == 0 and state.done < config.steps):
            checkpoint.save(path, state, names, rows, stamp)
        if ends:
            raise Interrupted
    return rows


def _info(config: TrainConfig, state: Bilevel, update: Update | None) -> dict[str, float]:
    """What a progress line may show: learning rate, clipped and skipped so far; after an update weights and losses."""
    info = {"lr": learning_rate(config, state.done - 1), "clipped": state.clipped, "skipped": state.skipped}
    if update is not None:
        info |= {f"weight {domain}": weight for domain, weight in update.weights.items()}
        info |= {"meta_loss": update.meta_loss} if update.meta_loss is not None else {}
        losses = [loss for domain in update.weights if (loss := update.tally.mean(domain)) is not None]
        info |= {"train_loss": sum(losses) / len(losses)} if losses else {}
    return info


def _rows(plan: _Plan, update: Update) -> list[Row]:
    return [
        {
            "run": plan.name,
            "seed": plan.seed,
            "null_control": plan.null_control,
            "update": update.number,
            "step": update.step,
            "domain": domain,
            "weight": weight,
            "raw": update.raw[domain],
            "dot": update.dots[domain],
            "rows": update.tally.rows.get(domain, 0),
            "train_loss": update.tally.mean(domain),
            "meta_loss": update.meta_loss,
            "cosine": update.cosine,
        }
        for domain, weight in update.weights.items()
    ]


def _last_weights(partition: Partition) -> dict[str, float]:
    table = partition.read(["update", "domain", "weight"]).to_pylist()
    last = max(row["update"] for row in table)
    return {row["domain"]: row["weight"] for row in table if row["update"] == last}
