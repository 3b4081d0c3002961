"""Checksums of what a run leaves: of the tensors in a file, and of the files of a saved PRM.

They tell a byte that changed on a disk from what was written, which the formats themselves do not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curate.errors import UserError

CARD = "prm.json"
# Files of a saved PRM that people edit.
_FREE = frozenset({CARD, "README.md"})
_PIECE = 2**24


def of_tensors(tensors: Mapping[str, Tensor], text: str) -> str:
    """Checksum of named tensors with their types and shapes, and of a text that belongs to them."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), crc)
        if tensor.numel():
            crc = zlib.crc32(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()), crc)
    return f"{crc:08x}"


def of_files(folder: Path) -> dict[str, str]:
    """Checksums of all files of a folder that a card vouches for, by name."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in _FREE)
    return {name: _of_file(folder / name) for name in names}


def of_card(card: Mapping[str, Any]) -> str:
    """Checksum of a card, but for the place where it keeps this."""
    plain = {name: value for name, value in card.items() if name != "seal"}
    return f"{zlib.crc32(json.dumps(plain, sort_keys=True).encode()):08x}"


def _of_file(path: Path) -> str:
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            crc = zlib.crc32(piece, crc)
    return f"{crc:08x}"


def check(folder: Path) -> None:
    """UserError unless the files of a saved PRM are those that its card vouches for; a folder without card passes."""
    try:
        files: dict[str, str] = json.loads((folder / CARD).read_bytes())["files"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / CARD} is damaged; {cure(folder)}.") from None
    for name, wanted in files.items():
        try:
            found = _of_file(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name} cannot be read ({error.strerror}); {cure(folder)}.") from None
        if found != wanted:
            raise UserError(f"{folder / name} is damaged: it is not the file that was saved; {cure(folder)}.")


def cure(folder: Path) -> str:
    """What helps where a saved PRM is damaged."""
    if (folder.parent.parent / "workspace.json").is_file():
        return f"restore it from a copy, or delete the folder `{folder}` and run `prm train` again"
    # `prm export --replace` deletes no folder whose card it cannot trust.
    return f"restore it from a copy, or delete the folder `{folder}` and save the PRM anew (`prm train`, `prm export`)"
