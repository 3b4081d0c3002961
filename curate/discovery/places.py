"""What there is to read at a path: tables, image files, and what the names say about roles."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from curate.discovery.images import Place
from curate.discovery.table import image_kind
from curate.errors import UserError
from curate.recipe.source_sections import Role
from curate.sources.files import KINDS
from curate.sources.readers.inputs import Input

# A folder with more files than this is looked at in part; said where it happens.
MAX_FILES = 300_000
# Tables of a folder that are looked at.
MAX_TABLES = 60
_ROLE = re.compile(
    r"(?P<train>train(?:ing|set|val)?)|(?P<test>test(?:mini|ing|set|dev)?|eval(?:uation)?)|val(?:idation|id)?|dev(?:elopment|set)?|meta",
    re.IGNORECASE,
)
# Files that describe data or tools and are no tables of problems.
_NOT_DATA = frozenset({"package.json", "package-lock.json", "tsconfig.json", "config.json", "dataset_infos.json",
                       "dataset_info.json", "state.json", "export.json", "tokenizer.json"})  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """Tables of a folder and the places with images; `partly` where there were more files than are looked at."""

    tables: Sequence[Path]
    places: Sequence[Place]
    partly: bool


def contents(where: Path) -> Contents:
    """What lies at a file or in a folder; UserError when there is nothing that can be read."""
    base = where if where.is_dir() else where.parent
    files = list(islice(_walk(base), MAX_FILES + 1))
    partly = len(files) > MAX_FILES
    images = [file for file in files if image_kind(file) == "path"]
    places = [Place(str(base), images)] if images else []
    for file in files:
        if file.lower().endswith(".zip"):
            places += _archive(base / file)
    if where.is_file():
        if Input.of(where).kind not in KINDS:
            raise UserError(f"{where.name} is not one of {', '.join(KINDS)}; convert it first.")
        return Contents([where], places, partly)
    tables = [base / file for file in sorted(files) if _is_table(file)]
    if not tables:
        raise UserError(f"{where} has no file of {', '.join(KINDS)}; give the folder or the file with the questions.")
    return Contents(tables, places, partly)


def _walk(base: Path) -> Iterator[str]:
    """Paths of all files below, relative to the folder; hidden ones and links are left out."""
    for folder, below, names in os.walk(base):
        below[:] = sorted(name for name in below if not name.startswith((".", "__")))
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118 - half a million times
            if not name.startswith(".") and not os.path.islink(path):  # noqa: PTH114
                yield os.path.relpath(path, base)


def _is_table(file: str) -> bool:
    path = Path(file)
    return Input.of(path).kind in KINDS and path.name not in _NOT_DATA


def _archive(path: Path) -> list[Place]:
    try:
        with zipfile.ZipFile(path) as archive:
            images = [name for name in islice(archive.namelist(), MAX_FILES) if image_kind(name) == "path"]
    except (OSError, zipfile.BadZipFile):
        return []
    return [Place(str(path), images, archive=True)] if images else []


def role_of(name: str, folders: Sequence[str] = ()) -> tuple[Role | None, str]:
    """The role that a file's or split's name says, or that of the folders around it, the nearest last; and the part of
    the name before the word that says it.
    """
    for each in (name, *reversed(folders)):
        for match in _ROLE.finditer(each):
            if _apart(each, match.start(), match.start() - 1) and _apart(each, match.end(), match.end() - 1):
                role: Role = "train" if match["train"] else "test" if match["test"] else "meta"
                return role, name[: match.start()] if each == name else name
    return None, name


def _apart(name: str, first: int, second: int) -> bool:
    """Whether two places side by side in a name belong to different words: `FTtest`, `myTrain`, `dev1k`, `a_test`."""
    if min(first, second) < 0 or max(first, second) >= len(name):
        return True
    one, other = name[first], name[second]
    return not (one.isalpha() and other.isalpha()) or one.islower() != other.islower()


def slug(text: str) -> str:
    """A text as the name of a source: letters, digits and dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower() or "data"
