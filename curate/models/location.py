"""Where a model is, and which one it is: checks and a fingerprint that need no model library."""

from __future__ import annotations

import hashlib
from pathlib import Path

from curate.errors import UserError

# A trained tensor file differs everywhere, so its ends and its size tell it apart without reading gigabytes.
_EDGE = 2**16


def check_model(model: str) -> None:
    """UserError when `model` reads as a path and is no model folder; a hub id passes."""
    path = Path(model).expanduser()
    is_path = model.startswith((".", "/", "~")) or path.is_dir() or model.count("/") > 1
    if not is_path or (path / "config.json").is_file():
        return
    if path.is_dir():
        raise UserError(
            f"{model} is not a model folder: it has no config.json; give the folder that `save_pretrained` wrote."
        )
    raise UserError(
        f"There is no model at {model}; check `engine.model`, a folder or a hub id such as Qwen/Qwen2-VL-2B."
    )


def locate(model: str, base: Path) -> str:
    """The model as an engine or trainer loads it: a folder that lies relative to `base` (the recipe), else as given."""
    folder = base / Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def fingerprint(model: str, revision: str | None) -> str:
    """Which weights these are: a hash of a folder's config and of size and edges of its weights, or the revision.

    A hub id without a revision is whatever "main" was at that time, and is recorded as such.
    """
    folder = Path(model).expanduser()
    # The simulated engine's model is a name, and a folder of that name is none of its business.
    if not (folder / "config.json").is_file():
        return revision or "main"
    found = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            found.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            found.update(file.read(_EDGE))
    return found.hexdigest()[:32]
