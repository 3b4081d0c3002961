"""Stage: examples in, trained PRMs and weights per update out.

There are `seeds` real runs (`seed-0`, ...) and `null_runs` controls (`null-0`, ...) on the same batches with the meta
outcomes shuffled: where weights end when the meta set says nothing. Runs are done one after the other, or side by side
(`prm.training.parallel`); a finished run is never done again, and one that was stopped goes on from its last
checkpoint.

In a group of processes (`prm.distributed.process_group`) all do each run together, and the one that leads does all
writing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

from curate.errors import UserError
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import ROLLOUT_WEIGHTS, UPDATES
from curate.tables.store import Store
from prm.config import LearnedTraining, RolloutTraining, SubsetTraining, TrainConfig
from prm.data import subset
from prm.distributed.process_group import ALONE, ProcessGroup
from prm.model.saved import has_card, model_folder
from prm.training import board, callbacks, parallel, validation
from prm.training.inputs import Data, meta_notes, prepare
from prm.training.records import last_weights
from prm.training.run import OnStep, RunPlan, RunResult, do, settings_of
from prm.training.stop import stopping

REPLACE = "prm train --replace"


@dataclass
class TrainResult:
    """What came of the stage: the ledger counts examples of the train and meta sets."""

    ledger: Ledger
    runs: list[RunResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _nobody(run: str, step: int, total: int, info: dict[str, float]) -> None:
    """Tells nobody."""


def plans(config: TrainConfig, run_seed: int) -> list[RunPlan]:
    """The runs of a configuration. Only modes that learn weights have null controls."""
    real = [RunPlan(f"seed-{i}", run_seed + i, False) for i in range(config.seeds)]
    controls = config.null_runs if isinstance(config, LearnedTraining) else 0
    return real + [RunPlan(f"null-{i}", run_seed + i, True) for i in range(controls)]


def run(
    config: TrainConfig,
    workspace: Store,
    run_seed: int,
    on_step: OnStep = _nobody,
    replace: bool = False,
    process_group: ProcessGroup = ALONE,
) -> TrainResult:
    """Train what is pending. `on_step(run, step, steps, info)` hears of every lower step, info by name.

    UserError when the sets cannot be trained on, or a run was made with other settings and `replace` is off;
    Interrupted after a Ctrl+C (of any process), with the state saved.
    """
    process_group = process_group.arranged(config.sharding)
    if process_group.size > 1 and isinstance(config, RolloutTraining):
        raise UserError(f"train.mode {config.mode} runs as one process; start it without torchrun.")
    if process_group.size > 1 and config.parallel is not None:
        raise UserError("train.parallel does nothing under torchrun, whose processes share each run; leave it out.")
    with process_group.gate():
        if config.tensorboard:
            board.writer_class()
        data, ledger = prepare(config, workspace, run_seed, rejects=process_group.leads)
        chosen = []
        if isinstance(config, SubsetTraining):
            chosen += subset.notes(config.mode, data.train, ledger.rejected)
        chosen += validation.notes(config, data.held, data.train)
        result = TrainResult(ledger, notes=[*meta_notes(config, data), *chosen])
    found = {
        plan: _there(plan, config, workspace, data, on_step, replace, process_group) for plan in plans(config, run_seed)
    }
    pending = [plan for plan, there in found.items() if there is None]
    together = 1 if process_group.size > 1 else parallel.processes(config, len(pending))
    with stopping() as stop:
        if together > 1:
            found |= parallel.run_all(pending, config, workspace, run_seed, on_step, stop, together)
        else:
            found |= {plan: do(plan, config, workspace, data, ledger, on_step, stop, process_group) for plan in pending}
    result.runs = [one for one in found.values() if one is not None]
    result.notes += [note for one in result.runs for note in one.notes]
    ledger.skipped = ledger.out if all(one.there for one in result.runs) else 0
    return result


def _there(
    plan: RunPlan,
    config: TrainConfig,
    workspace: Store,
    data: Data,
    on_step: OnStep,
    replace: bool,
    process_group: ProcessGroup,
) -> RunResult | None:
    """What came of a run that is finished; null for one that is pending. With `replace` what it left is deleted."""
    partition, there = workspace.partition(UPDATES, plan.name), False
    with process_group.gate():
        if process_group.leads:
            if replace:
                partition.clear()
                workspace.partition(ROLLOUT_WEIGHTS, plan.name).clear()
                callbacks.clear(workspace, plan.name)
                shutil.rmtree(model_folder(workspace, plan.name), ignore_errors=True)
            record = lineage.guard(partition, settings_of(plan, config, data), REPLACE)
            # What was deleted since is pending again.
            whole = bool(partition.files()) and (plan.null_control or has_card(model_folder(workspace, plan.name)))
            there = record is not None and record["complete"] and whole
    if not process_group.any(there):
        return None
    on_step(plan.name, config.steps, config.steps, {})
    return RunResult(plan.name, plan.null_control, True, last_weights(partition))
