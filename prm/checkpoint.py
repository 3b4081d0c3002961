"""A run under way, in one file: safetensors with JSON in its header, replaced atomically. A resumed run is bit-equal.

It holds the trained parameters, AdamW's moments, the averaged meta gradient, a sample of the last meta direction, the
upper level's state and the update records so far. The batches need no state: they are functions of seed and step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from curate.errors import UserError
from curate.schema import Row
from prm.bilevel import Bilevel, Tally

Tensor = Any
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save(path: Path, state: Bilevel, names: Sequence[str], rows: Sequence[Row], stamp: str) -> None:
    """Write the state of a run between two steps. `names` are the parameters'; `stamp` says what run this is."""
    tensors: dict[str, Tensor] = {f"upper.{name}": value for name, value in state.upper.state.items()}
    steps: dict[str, float] = {}
    for name, parameter in zip(names, state.parameters, strict=True):
        tensors[f"parameter.{name}"] = parameter.detach().contiguous()
        moments = state.optimiser.state[parameter]
        for moment in _MOMENTS:
            if moment in moments:
                tensors[f"{moment}.{name}"] = moments[moment].contiguous()
                steps[name] = float(moments["step"])
    if state.meta_average.sums is not None:
        averages = zip(names, state.meta_average.sums, strict=True)
        tensors |= {f"meta.{name}": average.contiguous() for name, average in averages}
    if state.turn.last is not None:
        tensors["direction"] = state.turn.last
    header = {
        "stamp": stamp,
        "done": state.done,
        "skipped": state.skipped,
        "clipped": state.clipped,
        "updates": state.upper.updates,
        "meta_gradients": state.meta_average.count,
        "tally": asdict(state.tally),
        "steps": steps,
        "rows": list(rows),
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"state": json.dumps(header)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"The checkpoint {path} cannot be written ({error}); free some space and run again.") from None


def load(path: Path, state: Bilevel, names: Sequence[str], stamp: str) -> list[Row] | None:
    """Put a saved state into a new run; returns the update records so far.

    None, with nothing changed, when there is no checkpoint or it belongs to another run.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, ValueError, KeyError):
        raise UserError(
            f"The checkpoint {path} is damaged; delete it, and this run starts from its beginning."
        ) from None
    if header["stamp"] != stamp:
        return None
    _restore(state, names, tensors, header)
    rows: list[Row] = header["rows"]
    return rows


def _restore(state: Bilevel, names: Sequence[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    for name, parameter in zip(names, state.parameters, strict=True):
        with torch.no_grad():
            parameter.copy_(tensors[f"parameter.{name}"])
        if name in header["steps"]:
            moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS}
            # The fused optimiser wants its counter beside the parameter.
            step = torch.tensor(header["steps"][name], device=parameter.device if state.fused else "cpu")
            state.optimiser.state[parameter] = {"step": step, **moments}
    state.meta_average.count = header["meta_gradients"]
    if state.meta_average.count:
        state.meta_average.sums = [
            tensors[f"meta.{name}"].to(parameter.device)
            for name, parameter in zip(names, state.parameters, strict=True)
        ]
    if "direction" in tensors:
        state.turn.last = tensors["direction"].to(state.parameters[0].device)
    # Copies are aligned as fresh tensors are; matrix products may differ in their last bit where that differs.
    state.upper.state = {name: tensors[f"upper.{name}"].clone() for name in state.upper.state}
    state.upper.updates, state.tally = header["updates"], Tally(**header["tally"])
    state.done, state.skipped, state.clipped = header["done"], header["skipped"], header["clipped"]
