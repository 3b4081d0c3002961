"""Curves of a run for TensorBoard: <workspace>/tensorboard/<run>/, shown by `tensorboard --logdir` of that folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.errors import UserError
from curate.tables.rows import UpdateRow
from curate.tables.store import Store

# Of what a progress line may show, what is drawn.
_INFO = ("lr", "clipped", "skipped", "train_loss", "meta_loss")


def folder(workspace: Store, run: str) -> Path:
    """Where the curves of a run lie."""
    return workspace.root / "tensorboard" / run


def writer_class() -> Any:
    """The `SummaryWriter` of torch; UserError where the package behind it is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard needs the package tensorboard; run pip install 'curate-prm[tensorboard]', or set it to "
            "false."
        ) from None
    return SummaryWriter


class Board:
    """Writes the curves of one run, of which `done` steps were done before: what was written past them is hidden."""

    def __init__(self, place: Path, done: int) -> None:
        # A run that starts over has a point at step 0, too.
        self._writer = writer_class()(str(place), purge_step=done + 1 if done else 0)

    def write(self, step: int, rows: Sequence[UpdateRow], info: Mapping[str, float]) -> None:
        """Points of a step: `rows` of the table `updates` (may be none), and what a progress line may show."""
        for row in rows:
            for name, value in (("weight", row.weight), ("dot", row.dot), ("train_loss", row.train_loss)):
                if value is not None:
                    self._writer.add_scalar(f"{name}/{row.domain}", value, step)
        for name in _INFO:
            if name in info:
                self._writer.add_scalar(name, info[name], step)

    def validation(self, metric: str, value: float, step: int) -> None:
        """The point of an evaluation."""
        self._writer.add_scalar(f"validation/{metric}", value, step)

    def flush(self) -> None:
        """Make what was written durable."""
        self._writer.flush()

    def close(self) -> None:
        """The run is over."""
        self._writer.close()
