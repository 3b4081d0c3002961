"""The folder of an export: written beside its place under another name, and put there when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from curate.errors import UserError

# Written last into every export; a folder without it is none of ours and never deleted.
MANIFEST = "export.json"


@contextlib.contextmanager
def fresh(folder: Path, replace: bool) -> Iterator[Path]:
    """An empty folder that becomes `folder` at the end; nothing is left of it when anything is raised inside.

    UserError when there is something at `folder` already, unless it is an export and `replace` is set.
    """
    # Without the links on the way: what is renamed must be the folder itself.
    folder = folder.absolute()
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    if not folder.name:
        raise UserError(f"{folder} cannot be the place of an export; give a new folder.")
    if old.is_dir() and not folder.exists():
        # A run that was killed between the two renames.
        old.rename(folder)
    _check(folder, replace)
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from None
    with _alone(part, folder):
        # What a killed run left.
        shutil.rmtree(old, ignore_errors=True)
        for each in part.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        try:
            yield part
            _sync(part)
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _alone(part: Path, folder: Path) -> Iterator[None]:
    """Around writing an export; UserError when another command writes the same one. Without locks all are alone."""
    handle = os.open(part, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another command exports to {folder}; wait until it ends, or give another folder."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def _check(folder: Path, replace: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder.name} is already a file or a link; give the export another folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise UserError(f"The folder {folder.name} has files that no export wrote; give the export another one.")
    if not replace:
        raise UserError(f"There is already an export in {folder.name}; give --replace, or another folder.")


def _sync(folder: Path) -> None:
    """All files on the disk, before their folder gets its name."""
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
