"""Tables that may become sources of a recipe: those of a file or folder, each with a sample of its records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from curate.discovery import places
from curate.discovery.findings import Guess
from curate.discovery.images import Place
from curate.discovery.places import role_of
from curate.errors import RowError, UserError
from curate.sources.base import Record
from curate.sources.files import read

# So many records of each file are looked at.
LOOK = 300
# An object with more keys is no row.
_MAX_FIELDS = 100
# So many files of one record each are no tables of their own.
_SINGLES = 5
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class CandidateTable:
    """A table: its settings as a source as far as they are known without its records, and a sample of these."""

    title: str
    settings: Mapping[str, Any]
    records: Sequence[Record]
    known: Sequence[Guess] = ()
    shown: Sequence[Place] = ()
    """Where images lie."""


@dataclass(frozen=True)
class Found:
    """Tables, files that cannot be one with the reason, and notes for the user."""

    tables: Sequence[CandidateTable]
    left_out: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def local(where: Path, base: Path) -> Found:
    """The tables of a file or folder; paths in their settings are relative to `base` where they lie below it.

    UserError when there is nothing that could be one.
    """
    contents, notes = places.contents(where), []
    if contents.partly:
        notes.append(f"Only the first {places.MAX_FILES:,} files of {where} were looked at.")
    if len(contents.tables) > places.MAX_TABLES:
        notes.append(f"Only {places.MAX_TABLES} of {len(contents.tables)} tables were looked at; give a folder below.")
    tables, left_out = list[CandidateTable](), list[tuple[str, str]]()
    single, files = _singles(contents.tables)
    for pattern, count, cure in single:
        left_out.append((pattern, f"{count} files of one record each; join them first: {cure}"))
    for path in files[: places.MAX_TABLES]:
        title = str(path.relative_to(where)) if where.is_dir() else path.name
        if _is_pointer(path):
            left_out.append((title, "it is a pointer of Git LFS and no data; get the data with git lfs pull"))
            continue
        try:
            sample = list(islice(read(path)[1], LOOK))
        except UserError as error:
            left_out.append((title, str(error)))
            continue
        records = [record for _, record in sample if not isinstance(record, RowError)]
        if not records:
            broken = next((str(record) for _, record in sample if isinstance(record, RowError)), "it has no rows")
            left_out.append((title, f"no record could be read: {broken}"))
            continue
        if len(records) == 1 and len(records[0]) > _MAX_FIELDS:
            left_out.append((title, f"it is one object of {len(records[0])} keys, and no rows"))
            continue
        folders = Path(title).parent.parts if where.is_dir() else path.resolve().parent.parts[-1:]
        role, rest = role_of(path.stem, folders)
        known = [Guess("role", role or "train", *why_role(role))]
        settings = {"kind": "files", "name": path.stem, "path": _from(path, base), "domain": rest}
        tables.append(CandidateTable(title, settings, records, known, contents.places))
    return Found(tables, left_out, notes)


def why_role(role: str | None) -> tuple[str, bool, Sequence[str]]:
    """The reason of a role, whether it is sure, and what else it could be."""
    return ("its name says so", True, ()) if role else ("no name says what it is for", False, ("test", "meta"))


def _from(path: Path, base: Path) -> str:
    """The path as a recipe in the folder `base` has it: relative where it lies below."""
    whole = path.resolve()
    return os.path.relpath(whole, base.resolve()) if whole.is_relative_to(base.resolve()) else str(whole)


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _singles(tables: Sequence[Path]) -> tuple[list[tuple[str, int, str]], list[Path]]:
    """(name, how many, how to join them) of JSON files of one record each; and the other files.

    They have one name or lie in one folder, and the first ones stand for all.
    """
    groups: dict[str, list[Path]] = {}
    for path in tables:
        if path.suffix.lower() == ".json":
            groups.setdefault(f"*/{path.name}", []).append(path)
            groups.setdefault(f"{path.parent.name}/*{path.suffix}", []).append(path)
    found, gone = list[tuple[str, int, str]](), set[Path]()
    for pattern, paths in groups.items():
        left = [path for path in paths if path not in gone]
        if len(left) >= _SINGLES and all(_is_single(path) for path in left[:_SINGLES]):
            gone |= set(left)
            where = os.path.commonpath([path.parent for path in left])
            name = left[0].name if pattern.startswith("*") else f"*{left[0].suffix}"
            found.append((pattern, len(left), f"find {where} -name '{name}' -exec jq -c . {{}} + > all.jsonl"))
    return found, [path for path in tables if path not in gone]


def _is_single(path: Path) -> bool:
    try:
        sample = list(islice(read(path)[1], 2))
    except UserError:
        return False
    return len(sample) == 1 and not isinstance(sample[0][1], RowError)
