"""Stage: examples in, trained PRMs and weights per update out.

There are `seeds` real runs (`seed-0`, ...) and `null_runs` controls (`null-0`, ...) on the same batches with the meta
outcomes shuffled: where weights end when the meta set says nothing. Runs are done one after the other, or side by side
(`prm.parallel`); a finished run is never done again, and one that was stopped goes on from its last checkpoint.

In a team of processes (`prm.team`) all do each run together, and the one that leads does all writing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate import lineage
from curate.engines.models import fingerprint as model_fingerprint
from curate.errors import Interrupted, UserError
from curate.lineage import Ledger
from curate.schema import ROLLOUT_WEIGHTS, UPDATES, Row
from curate.seeds import digest
from curate.store import Partition, Workspace
from prm import account, board, checkpoint, parallel, subset, validation, watch
from prm.aggregate import aggregation
from prm.batches import Even, Pooled
from prm.bilevel import Bilevel
from prm.config import PER_ROLLOUT, TrainConfig
from prm.data import STAGE, Data, meta_set, pair_notes, prepare
from prm.lora import adapt, halve
from prm.model import Prm
from prm.objective import PrmObjective
from prm.records import last_weights, progress, update_rows, with_t
from prm.saved import Card, has_card, model_folder, save_model
from prm.stop import Stop, stopping
from prm.team import ALONE, Team, usable_device

REPLACE = "prm train --replace"
# Of the configuration, what does not change a run.
_FREE = {
    *("model", "revision", "seeds", "null_runs", "checkpoint_every", "cache_megabytes", "sharding", "parallel"),
    *("checkpointing", "tensorboard"),
}

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
    notes: Sequence[str] = ()


@dataclass
class TrainResult:
    """What came of the stage: the ledger counts examples of the train and meta sets."""

    ledger: Ledger
    runs: list[RunResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """One run to do."""

    name: str
    seed: int
    null_control: bool


def _nobody(run: str, step: int, total: int, info: dict[str, float]) -> None:
    """Tells nobody."""


def plans(config: TrainConfig, run_seed: int) -> list[Plan]:
    """The runs of a configuration. Only modes that learn weights have null controls."""
    real = [Plan(f"seed-{i}", run_seed + i, False) for i in range(config.seeds)]
    controls = config.null_runs if config.learns else 0
    return real + [Plan(f"null-{i}", run_seed + i, True) for i in range(controls)]


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
    if team.size > 1 and config.parallel is not None:
        raise UserError("train.parallel does nothing under torchrun, whose processes share each run; leave it out.")
    with team.gate():
        aggregation(config.aggregation)
        if config.tensorboard:
            board.writer_class()
        data, ledger = prepare(config, workspace, run_seed, rejects=team.leads)
        chosen = subset.notes(config.mode, data.train, ledger.rejected)
        chosen += validation.notes(config, data.held, data.train)
        result = TrainResult(ledger, notes=[*pair_notes(config, data, run_seed), *chosen])
    found = {plan: _there(plan, config, workspace, data, on_step, replace, team) for plan in plans(config, run_seed)}
    owed = [plan for plan, there in found.items() if there is None]
    together = 1 if team.size > 1 else parallel.processes(config, len(owed))
    with stopping() as stop:
        if together > 1:
            found |= parallel.run_all(owed, config, workspace, run_seed, on_step, stop, together)
        else:
            found |= {plan: do(plan, config, workspace, data, ledger, on_step, stop, team) for plan in owed}
    result.runs = [one for one in found.values() if one is not None]
    result.notes += [note for one in result.runs for note in one.notes]
    ledger.skipped = ledger.out if all(one.there for one in result.runs) else 0
    return result


def _settings(plan: Plan, config: TrainConfig, data: Data) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_FREE) | {
        # A folder counts by its content, wherever it lies.
        "model": model_fingerprint(config.model, config.revision),
        "run_seed": plan.seed,
        "null_control": plan.null_control,
        "data": data.fingerprint,
    }


def _there(
    plan: Plan, config: TrainConfig, workspace: Workspace, data: Data, on_step: OnStep, replace: bool, team: Team
) -> RunResult | None:
    """What came of a run that is finished; null for one that is owed. With `replace` what it left is deleted."""
    partition, there = workspace.partition(UPDATES, plan.name), False
    with team.gate():
        if team.leads:
            if replace:
                partition.clear()
                workspace.partition(ROLLOUT_WEIGHTS, plan.name).clear()
                watch.clear(workspace, plan.name)
                shutil.rmtree(model_folder(workspace, plan.name), ignore_errors=True)
            record = lineage.guard(partition, _settings(plan, config, data), REPLACE)
            # What was deleted since is owed again.
            whole = bool(partition.files()) and (plan.null_control or has_card(model_folder(workspace, plan.name)))
            there = record is not None and record["complete"] and whole
    if not team.any(there):
        return None
    on_step(plan.name, config.steps, config.steps, {})
    return RunResult(plan.name, plan.null_control, True, last_weights(partition))


def do(
    plan: Plan,
    config: TrainConfig,
    workspace: Workspace,
    data: Data,
    ledger: Ledger,
    on_step: OnStep,
    stop: Stop,
    team: Team = ALONE,
) -> RunResult:
    """A run that is owed, from its last checkpoint or from the start. Errors as in `run`."""
    partition, folder = workspace.partition(UPDATES, plan.name), model_folder(workspace, plan.name)
    settings = _settings(plan, config, data)
    with team.gate():
        prm, state = start(plan.seed, plan.null_control, config, data, team)
    with team.gate():
        # Only now: a start that failed leaves nothing behind that other settings would clash with.
        if team.leads:
            lineage.write(partition, STAGE, settings, {"examples": ledger.out})
    along = watch.Watch(config, workspace, plan.name, plan.null_control, prm, state, data.encoder, data.held.rows)
    rows = _drive(plan, config, prm, state, partition, digest(settings), on_step, stop, along)
    along.finish()
    whole = team.whole(prm, lambda: load_model(config))
    with team.gate():
        if team.leads:
            if not plan.null_control:
                save_model(whole, folder, data.encoder, Card.of(plan.name, config, data.encoder.suffix))
            # A kill between a commit and the lineage record leaves rows that the repeated end writes again.
            for path in partition.files():
                path.with_suffix(".done").unlink()
            account.write(workspace, plan.name, plan.null_control, state.rollouts, data.rows, settings)
            along.write(settings)
            partition.commit_all(with_t(rows))
            extra = {"device": str(state.parameters[0].device), "skipped_updates": str(state.skipped)}
            extra |= ({"processes": str(team.size)} if team.size > 1 else {}) | along.record()
            lineage.write(partition, STAGE, settings, {"examples": ledger.out}, ledger, extra)
            _checkpoint_path(partition).unlink(missing_ok=True)
            along.tidy()
    return RunResult(plan.name, plan.null_control, False, state.weights(), state.skipped, state.clipped, along.notes())


def load_model(config: TrainConfig) -> Prm:
    """The PRM of a configuration as it lies in its folder."""
    return Prm.load(config.model, config.revision, config.freeze_vision, config.cache_megabytes)


def start(seed: int, null_control: bool, config: TrainConfig, data: Data, team: Team = ALONE) -> tuple[Prm, Bilevel]:
    """A fresh PRM and the state of its run."""
    prm = load_model(config)
    prm.share_features(data.features)
    if config.read == "branch":
        prm.backbone.check_branches()
    right, wrong = (
        (data.encoder.token(token) for token in config.label_tokens) if config.head == "label-token" else (0, 0)
    )
    prm.start_head(config.head, right, wrong, seed)
    if config.lora is not None:
        adapt(prm.base, prm.layers(), config.lora, seed)
    if config.lora is not None and config.precision == "bfloat16":
        halve(prm.base)
    team.place(prm, team.device(usable_device(config.device)), prm.layers())
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
        Even("train", data.strata(config.rows_per_domain), config.rows_per_domain, seed)
        if data.pooled is None
        else Pooled("train", data.train, data.pooled, seed)
    )
    return prm, Bilevel(config, objective, prm.trained(), train, meta, team)


def _checkpoint_path(partition: Partition) -> Path:
    return partition.folder / "checkpoint.safetensors"


def _drive(
    plan: Plan,
    config: TrainConfig,
    prm: Prm,
    state: Bilevel,
    partition: Partition,
    stamp: str,
    on_step: OnStep,
    stop: Stop,
    along: watch.Watch,
) -> list[Row]:
    """Run to the end, or to a Ctrl+C; returns all update rows of the run. A checkpoint is of the run `stamp`."""
    who = (plan.name, plan.seed, plan.null_control)
    path, names = _checkpoint_path(partition), [name for name, _ in prm.trained_names()]
    rows = checkpoint.load(path, state, names, stamp)
    if rows is None:
        rows = update_rows(*who, state.first())
    state.agree()
    along.begin(rows)
    while not along.over:
        update = state.step()
        made = [] if update is None else update_rows(*who, update)
        rows.extend(made)
        info = along.step(made, progress(config, state, update))
        on_step(plan.name, state.done, config.steps, info)
        ends = state.team.any(stop.asked)
        if ends or state.done % config.checkpoint_every == 0 or along.over:
            state.agree()
        if ends or (state.done % config.checkpoint_every == 0 and not along.over):
            with along.saving():
                checkpoint.save(path, state, names, rows, stamp)
        if ends:
            raise Interrupted
    return rows
