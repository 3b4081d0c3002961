"""A run under way, in one file: safetensors with JSON in its header, replaced atomically. A resumed run is bit-equal.

It holds the trained parameters, AdamW's moments, the averaged meta gradient, a sample of the last meta direction, the
upper level's state, the update records and validations so far; all whole, whatever the number of processes that made
them or will go on (but for the sample, which shards have of their own). The batches need no state: they are functions
of seed and step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from curate.errors import UserError
from curate.tables.rows import Row, UpdateRow, ValidationRow, column_names
from prm.bilevel.loop import Bilevel, DomainTally
from prm.distributed.process_group import local
from prm.model import digests

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint holds besides its tensors; `stamp` says what run it is of, `steps` are AdamW's by parameter."""

    stamp: str
    done: int
    skipped: int
    clipped: int
    updates: int
    meta_gradients: int
    tally: DomainTally
    steps: Mapping[str, float]
    rows: Sequence[UpdateRow]
    validations: Sequence[ValidationRow]

    def plain(self) -> dict[str, Any]:
        """The header in plain values, for JSON."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        rows = {"rows": _plain(self.rows), "validations": _plain(self.validations)}
        return found | {"tally": asdict(self.tally)} | rows

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> CheckpointHeader:
        """Read it back; TypeError or KeyError where it is of another version of this program."""
        rows = [UpdateRow(**row) for row in plain["rows"]]
        # Which one is kept is known at the end of the run.
        validations = [ValidationRow(**row | {"kept": False}) for row in plain.get("validations", [])]
        made = {"tally": DomainTally(**plain["tally"]), "rows": rows, "validations": validations}
        return cls(**{**plain, **made})


def save(path: Path, state: Bilevel, names: Sequence[str], rows: Sequence[UpdateRow], stamp: str) -> None:
    """Write the state of a run between two steps. `names` are the parameters'; `stamp` says what run this is.

    All processes of a group take part; the one that leads writes.
    """
    tensors: dict[str, Tensor] = {f"upper.{name}": value for name, value in state.upper.state.items()}
    steps: dict[str, float] = {}
    full = state.process_group.full
    for name, parameter in zip(names, state.parameters, strict=True):
        tensors[f"parameter.{name}"] = full(parameter.detach(), parameter).contiguous()
        moments = state.optimiser.state[parameter]
        for moment in _MOMENTS:
            if moment in moments:
                tensors[f"{moment}.{name}"] = full(moments[moment], parameter).contiguous()
                steps[name] = float(moments["step"])
    if state.meta_average.sums is not None:
        averages = zip(names, state.meta_average.sums, state.parameters, strict=True)
        tensors |= {f"meta.{name}": full(average, parameter).contiguous() for name, average, parameter in averages}
    if state.turn.last is not None and not state.sharded:
        tensors["direction"] = state.turn.last
    header = CheckpointHeader(
        stamp=stamp,
        done=state.done,
        skipped=state.skipped,
        clipped=state.clipped,
        updates=state.upper.updates,
        meta_gradients=state.meta_average.count,
        tally=state.whole_tally(),
        steps=steps,
        rows=rows,
        validations=state.validations,
    )
    with state.process_group.gate():
        if state.process_group.leads:
            _write(path, tensors, json.dumps(header.plain()))


def _plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows in plain values, for JSON."""
    return [{name: getattr(row, name) for name in column_names(type(row))} for row in rows]


def _write(path: Path, tensors: Mapping[str, Tensor], header: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"state": header, "digest": digests.of_tensors(tensors, header)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"The checkpoint {path} cannot be written ({error}); free some space and run again.") from None


def load(path: Path, state: Bilevel, names: Sequence[str], stamp: str) -> list[UpdateRow] | None:
    """Put a saved state into a new run; returns the update records so far.

    None, with nothing changed, when there is no checkpoint or it belongs to another run.
    """
    if not path.exists():
        return None
    try:
        found, tensors = _read(path)
    except ValueError:
        raise UserError(
            f"The checkpoint {path} is damaged; delete it, and this run starts from its beginning."
        ) from None
    if found.get("stamp") != stamp:
        return None
    try:
        header = CheckpointHeader.of(found)
    except (TypeError, KeyError):
        raise UserError(
            f"The checkpoint {path} is of another version of this program; delete it, and this run starts from its "
            "beginning."
        ) from None
    _restore(state, names, tensors, header)
    return list(header.rows)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file; ValueError where they are not what was written."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        sound = about["digest"] == digests.of_tensors(tensors, about["state"])
        header: dict[str, Any] = json.loads(about["state"])
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(str(error)) from None
    if not sound:
        raise ValueError("a byte is not as it was written")
    return header, tensors


def _restore(state: Bilevel, names: Sequence[str], tensors: Mapping[str, Tensor], header: CheckpointHeader) -> None:
    part = state.process_group.part
    _put_parameters(state, names, tensors)
    for name, parameter in zip(names, state.parameters, strict=True):
        if name in header.steps:
            moments = {moment: part(tensors[f"{moment}.{name}"], parameter) for moment in _MOMENTS}
            # The fused optimiser wants its counter beside the parameter.
            step = torch.tensor(header.steps[name], device=parameter.device if state.fused else "cpu")
            state.optimiser.state[parameter] = {"step": step, **moments}
    state.meta_average.count = header.meta_gradients
    if state.meta_average.count:
        state.meta_average.sums = [
            local(part(tensors[f"meta.{name}"], parameter))
            for name, parameter in zip(names, state.parameters, strict=True)
        ]
    if "direction" in tensors and not state.sharded:
        state.turn.last = tensors["direction"].to(state.parameters[0].device)
    # Copies are aligned as fresh tensors are; matrix products may differ in their last bit where that differs.
    state.upper.state = {name: tensors[f"upper.{name}"].clone() for name in state.upper.state}
    state.upper.updates = header.updates
    # It is of all processes, so one goes on with it.
    state.tally = header.tally if state.process_group.leads else DomainTally()
    state.done, state.skipped, state.clipped = header.done, header.skipped, header.clipped
    state.validations = list(header.validations)


def _put_parameters(state: Bilevel, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in zip(names, state.parameters, strict=True):
        with torch.no_grad():
            local(parameter).copy_(local(state.process_group.part(tensors[f"parameter.{name}"], parameter)))


def save_parameters(path: Path, state: Bilevel, names: Sequence[str]) -> None:
    """Write the trained parameters alone; all processes of a group take part, and the one that leads writes."""
    full = state.process_group.full
    tensors = {f"parameter.{n}": full(p.detach(), p).contiguous() for n, p in zip(names, state.parameters, strict=True)}
    with state.process_group.gate():
        if state.process_group.leads:
            _write(path, tensors, json.dumps({"done": state.done}))


def load_parameters(path: Path, state: Bilevel, names: Sequence[str]) -> None:
    """Put saved parameters into the run; UserError when they are not there any more, or damaged."""
    try:
        _, tensors = _read(path)
    except ValueError:
        raise UserError(
            f"The parameters of the best step, {path}, are gone or damaged; delete `{path}` and "
            f"`{path.with_name('checkpoint.safetensors')}` and run `prm train` again."
        ) from None
    _put_parameters(state, names, tensors)
