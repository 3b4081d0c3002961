"""What goes along with the steps of a run: evaluations, the best state so far on disk, an early end, curves.

The best parameters lie in a file of their own beside the checkpoint, named by their step. Older ones are deleted only
after a checkpoint that knows the newer, so that a run goes on from no checkpoint whose best file is gone.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.rows import UpdateRow, ValidationRow
from curate.tables.schema import UPDATES, VALIDATIONS
from curate.tables.store import Store
from prm.bilevel.loop import Bilevel
from prm.config import TrainConfig
from prm.data.encode import Encoded, Encoder
from prm.model.reward_model import Prm
from prm.training import board, checkpoint
from prm.training.board import Board
from prm.training.validation import Validation
from prm.validation_config import METRICS


def best(history: Sequence[ValidationRow]) -> int | None:
    """Place of the evaluation with the best value, the first of equal ones; None when none has a value."""
    found = {place: METRICS[row.metric] * row.value for place, row in enumerate(history) if row.value is not None}
    return max(found, key=lambda place: found[place], default=None)


def stalled(history: Sequence[ValidationRow]) -> int:
    """How many evaluations there were since the best one."""
    place = best(history)
    return len(history) - (0 if place is None else place + 1)


def clear(workspace: Store, run: str) -> None:
    """Delete what a run left."""
    workspace.partition(VALIDATIONS, run).clear()
    shutil.rmtree(board.folder(workspace, run), ignore_errors=True)


class Callbacks:
    """Goes along with one run; without `train.validation` and `train.tensorboard` it only counts steps.

    `rows` are the held-out ones that are measured. All processes of a group have one and call it in step; the one that
    leads writes.
    """

    def __init__(
        self,
        config: TrainConfig,
        workspace: Store,
        run: str,
        null_control: bool,
        prm: Prm,
        state: Bilevel,
        encoder: Encoder,
        rows: Sequence[Encoded],
    ) -> None:
        self.config, self.workspace, self.run, self.null_control = config, workspace, run, null_control
        self.state, self.rows, self.place = state, rows, workspace.partition(UPDATES, run).folder
        self.names = [name for name, _ in prm.trained_names()]
        self.validation = (
            Validation(config, prm, encoder, rows, state.process_group) if config.validation is not None else None
        )
        self.board: Board | None = None

    def begin(self, rows: Sequence[UpdateRow]) -> None:
        """The state is as it goes on from; `rows` are the update records so far."""
        if self.config.tensorboard and self.state.process_group.leads:
            self.board = Board(board.folder(self.workspace, self.run), self.state.done)
            if not self.state.done:
                self.board.write(0, rows, {})

    @property
    def ended_early(self) -> bool:
        """Whether patience ran out before the last step."""
        patience = self.config.validation.patience if self.config.validation is not None else None
        if patience is None or self.state.done >= self.config.steps:
            return False
        return stalled(self.state.validations) >= patience

    @property
    def over(self) -> bool:
        """Whether the run is at its end."""
        return self.state.done >= self.config.steps or self.ended_early

    def step(self, rows: Sequence[UpdateRow], info: Mapping[str, float]) -> dict[str, float]:
        """After a step with these update records: evaluate where that is due; returns `info` with what came of it."""
        shown = dict(info)
        if self.board is not None:
            self.board.write(self.state.done, rows, info)
        if self._due():
            shown |= self._evaluate()
        return shown

    def _due(self) -> bool:
        if self.config.validation is None:
            return False
        return self.state.done % self.config.validation.every == 0 or self.state.done == self.config.steps

    def _evaluate(self) -> dict[str, float]:
        assert self.validation is not None  # noqa: S101
        metric, value, step = self.validation.config.metric, self.validation.value(), self.state.done
        # Which one is kept is known at the end of the run.
        row = ValidationRow(self.run, self.null_control, step, metric, value, len(self.rows), kept=False)
        self.state.validations.append(row)
        if self.board is not None and value is not None:
            self.board.validation(metric, value, step)
        improved = stalled(self.state.validations) == 0
        if improved and self._keeps_best and step < self.config.steps:
            checkpoint.save_parameters(self._file(step), self.state, self.names)
        shown = {} if value is None else {metric: value}
        return shown | ({"ended": 1.0} if self.ended_early else {})

    @property
    def _keeps_best(self) -> bool:
        # Of a null control no PRM is saved.
        return self.validation is not None and self.validation.config.keep == "best" and not self.null_control

    def _file(self, step: int) -> Path:
        return self.place / f"best-{step}.safetensors"

    def _kept(self) -> ValidationRow | None:
        """The evaluation of the state that is saved at the end: the last one where none has a value."""
        history = self.state.validations
        place = best(history) if self._keeps_best else None
        return history[-1 if place is None else place] if history else None

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around writing a checkpoint."""
        if self.board is not None:
            self.board.flush()
        yield
        self.tidy(all_but=best(self.state.validations))

    def tidy(self, all_but: int | None = None) -> None:
        """Delete the files of best parameters, but that of one evaluation."""
        kept = None if all_but is None else self._file(self.state.validations[all_but].step)
        if self.state.process_group.leads:
            # Also what a kill left half written.
            for path in self.place.glob("best-*"):
                if path != kept:
                    path.unlink(missing_ok=True)

    def finish(self) -> None:
        """The run is over: the parameters become those that are to be saved."""
        if self.board is not None:
            self.board.close()
        kept = self._kept()
        if kept is not None and kept.step != self.state.done:
            with self.state.process_group.gate():
                checkpoint.load_parameters(self._file(kept.step), self.state, self.names)

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write the run's evaluations in place of what is there, with their lineage."""
        partition, kept = self.workspace.partition(VALIDATIONS, self.run), self._kept()
        partition.clear()
        if kept is None:
            return
        rows = [replace(row, kept=row is kept and not self.null_control) for row in self.state.validations]
        partition.commit_all(rows)
        lineage.write(partition, "train", settings, {}, Ledger("evaluations", taken=len(rows), out=len(rows)))

    def record(self) -> dict[str, str]:
        """For the lineage record of the run: which state was kept, by what, and where the run ended early."""
        kept, ended = self._kept(), {"ended_early": str(self.state.done)} if self.ended_early else {}
        if kept is None or self.null_control:
            return ended
        return {"kept_step": str(kept.step), "validation": f"{kept.metric} {kept.value!r}"} | ended

    def notes(self) -> list[str]:
        """What became of the run, for people."""
        kept = self._kept()
        if kept is None or self.null_control:
            return []
        value = "no number" if kept.value is None else f"{kept.value:.4g}"
        text = f"{self.run}: the PRM of step {kept.step:,} is kept, {kept.metric} {value}"
        if self.ended_early:
            text += f"; ended at step {self.state.done:,} of {self.config.steps:,}, as it became no better"
        return [text + "."]
