"""One run of the trainer, from its start or its last checkpoint to a saved PRM and its rows of the table `updates`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import Interrupted
from curate.models.location import fingerprint as model_fingerprint
from curate.seeds import digest
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import UpdateRow
from curate.tables.schema import UPDATES
from curate.tables.store import Partition, Store
from prm.bilevel.loop import Bilevel
from prm.bilevel.objective import PrmObjective
from prm.config import LearnedTraining, TrainConfig
from prm.data.batches import EvenBatches, PooledBatches
from prm.data.meta import OUTCOME
from prm.distributed.process_group import ALONE, ProcessGroup, usable_device
from prm.model.aggregate import aggregation
from prm.model.lora import adapt, halve
from prm.model.reward_model import Prm
from prm.model.saved import Card, model_folder, save_model
from prm.training import callbacks, checkpoint, rollout_weights
from prm.training.inputs import STAGE, Data, meta_set, upper_loss
from prm.training.records import progress, update_rows, with_t
from prm.training.stop import TrainingStop

# Of the configuration, what does not change a run.
_FREE = {
    *("model", "revision", "seeds", "null_runs", "checkpoint_every", "cache_megabytes", "sharding", "parallel"),
    *("checkpointing", "tensorboard"),
}

OnStep = Callable[[str, int, int, dict[str, float]], None]
# Where no weights are learned.
_NO_OUTCOMES: Mapping[str, bool] = {}


@dataclass(frozen=True)
class RunResult:
    """What came of one run. `there` when it had been finished before."""

    run: str
    null_control: bool
    there: bool
    weights: Mapping[str, float]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class RunPlan:
    """One run to do."""

    name: str
    seed: int
    null_control: bool


def settings_of(plan: RunPlan, config: TrainConfig, data: Data) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_FREE) | {
        # A folder counts by its content, wherever it lies.
        "model": model_fingerprint(config.model, config.revision),
        "run_seed": plan.seed,
        "null_control": plan.null_control,
        "data": data.fingerprint,
    }


def do(
    plan: RunPlan,
    config: TrainConfig,
    workspace: Store,
    data: Data,
    ledger: Ledger,
    on_step: OnStep,
    stop: TrainingStop,
    process_group: ProcessGroup = ALONE,
) -> RunResult:
    """A run that is pending, from its last checkpoint or from the start. Errors as in `run`."""
    partition, folder = workspace.partition(UPDATES, plan.name), model_folder(workspace, plan.name)
    settings = settings_of(plan, config, data)
    with process_group.gate():
        prm, state = start(plan.seed, plan.null_control, config, data, process_group)
    with process_group.gate():
        # Only now: a start that failed leaves nothing behind that other settings would clash with.
        if process_group.leads:
            lineage.write(partition, STAGE, settings, {"examples": ledger.out})
    along = callbacks.Callbacks(
        config, workspace, plan.name, plan.null_control, prm, state, data.encoder, data.held.rows
    )
    rows = _drive(plan, config, prm, state, partition, digest(settings), on_step, stop, along)
    along.finish()
    whole = process_group.whole(prm, lambda: load_model(config))
    with process_group.gate():
        if process_group.leads:
            if not plan.null_control:
                save_model(whole, folder, data.encoder, Card.of(plan.name, config, data.encoder.suffix))
            # A kill between a commit and the lineage record leaves rows that the repeated end writes again.
            for path in partition.files():
                path.with_suffix(".done").unlink()
            rollout_weights.write(workspace, plan.name, plan.null_control, state.rollouts, data.rows, settings)
            along.write(settings)
            partition.commit_all(with_t(rows))
            extra = {"device": str(state.parameters[0].device), "skipped_updates": str(state.skipped)}
            extra |= ({"processes": str(process_group.size)} if process_group.size > 1 else {}) | along.record()
            lineage.write(partition, STAGE, settings, {"examples": ledger.out}, ledger, extra)
            _checkpoint_path(partition).unlink(missing_ok=True)
            along.tidy()
    return RunResult(plan.name, plan.null_control, False, state.weights(), along.notes())


def load_model(config: TrainConfig) -> Prm:
    """The PRM of a configuration as it lies in its folder."""
    return Prm.load(config.model, config.revision, config.freeze_vision, config.cache_megabytes)


def start(
    seed: int, null_control: bool, config: TrainConfig, data: Data, process_group: ProcessGroup = ALONE
) -> tuple[Prm, Bilevel]:
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
    process_group.place(prm, process_group.device(usable_device(config.device)), prm.layers())
    prm.use_precision(config.precision)
    if config.compile:
        prm.use_compile()
    if config.checkpointing:
        prm.use_checkpointing()
    aggregate, outcomes, meta, upper = aggregation(config.aggregation), _NO_OUTCOMES, None, OUTCOME
    if isinstance(config, LearnedTraining):
        outcomes, meta = meta_set(data, config, seed, null_control)
        upper = upper_loss(config)
    objective = PrmObjective(prm, data.encoder, data.rows, outcomes, config.loss, aggregate, config.micro_rows, upper)
    train = (
        EvenBatches("train", data.strata(config.rows_per_domain), config.rows_per_domain, seed)
        if data.pooled is None
        else PooledBatches("train", data.train, data.pooled, seed)
    )
    return prm, Bilevel(config, objective, prm.trained(), train, meta, process_group)


def _checkpoint_path(partition: Partition) -> Path:
    return partition.folder / "checkpoint.safetensors"


def _drive(
    plan: RunPlan,
    config: TrainConfig,
    prm: Prm,
    state: Bilevel,
    partition: Partition,
    stamp: str,
    on_step: OnStep,
    stop: TrainingStop,
    along: callbacks.Callbacks,
) -> list[UpdateRow]:
    """Run to the end, or to a Ctrl+C; returns all update rows of the run. A checkpoint is of the run `stamp`."""
    who = (plan.name, plan.seed, plan.null_control)
    rule = config.upper.rule if isinstance(config, LearnedTraining) else None
    path, names = _checkpoint_path(partition), [name for name, _ in prm.trained_names()]
    rows = checkpoint.load(path, state, names, stamp)
    if rows is None:
        rows = update_rows(*who, state.first(), rule)
    state.agree()
    along.begin(rows)
    while not along.over:
        update = state.step()
        made = [] if update is None else update_rows(*who, update, rule)
        rows.extend(made)
        info = along.step(made, progress(config, state, update))
        on_step(plan.name, state.done, config.steps, info)
        ends = state.process_group.any(stop.asked)
        if ends or state.done % config.checkpoint_every == 0 or along.over:
            state.agree()
        if ends or (state.done % config.checkpoint_every == 0 and not along.over):
            with along.saving():
                checkpoint.save(path, state, names, rows, stamp)
        if ends:
            raise Interrupted
    return rows
