"""Where image paths lead: a folder, or a zip archive read in place. Nothing outside of it is read."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from curate.errors import RowError, UserError

# A file or member with more is no image, or a bomb; `ingest.max_image_bytes` is the limit for what is sound.
LARGEST = 512 * 2**20
# Bzip2 and LZMA unpack a few bytes to gigabytes before they can be stopped, and make no image smaller.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Root(Protocol):
    """Bytes by a path relative to it; RowError with the reason when there are none."""

    def read(self, name: str) -> bytes: ...


class Folder:
    """A folder; links may not lead out of it."""

    def __init__(self, path: Path) -> None:
        self._base = os.path.realpath(path)

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        try:
            # Not by pathlib, which takes three times as long over it.
            path = os.path.realpath(os.path.join(self._base, name))  # noqa: PTH118
            if os.path.commonpath([self._base, path]) != self._base:
                raise RowError("image-outside-root", f"{name} leads out of the image folder")
            found = os.stat(path)  # noqa: PTH116
            # A pipe or a device would be read for ever.
            if not stat.S_ISREG(found.st_mode):
                raise RowError("image-missing", f"{name} is no file in the image folder")
            if found.st_size > LARGEST:
                raise RowError("image-too-large", f"{name} has {found.st_size:,} bytes")
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                return file.readall()
        except (FileNotFoundError, NotADirectoryError):
            raise RowError("image-missing", f"{name} is no file in the image folder") from None
        except ValueError as error:
            # No path at all: a NUL byte, half a surrogate pair.
            raise RowError("image-missing", f"{name}: {error}") from None
        except OSError as error:
            # Links that go round in a circle lead nowhere.
            reason = "image-missing" if error.errno == errno.ELOOP else "image-unreadable"
            raise RowError(reason, f"{name}: {error.strerror}") from None


class Archive:
    """A zip file; a path is looked up as it is, then below a single top folder that the archive may have."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:
            # Of damaged archives zipfile raises anything.
            raise UserError(f"{path.name} is not a readable zip archive ({error}); get it again.") from None
        self._names = {name for name in self._zip.namelist() if not name.endswith("/")}
        tops = {name.partition("/")[0] for name in self._names if "/" in name}
        self._top = tops.pop() if len(tops) == 1 and all("/" in name for name in self._names) else None

    def read(self, name: str) -> bytes:
        """The member's bytes."""
        plain = str(PurePosixPath(name))
        if plain.startswith(("/", "..")) or "/../" in f"/{plain}/":
            raise RowError("image-outside-root", f"{name} leads out of the archive")
        found = next((at for at in (plain, f"{self._top}/{plain}") if at in self._names), None)
        if found is None:
            raise RowError("image-missing", f"{name} is not in the archive")
        told = self._zip.getinfo(found)
        if told.file_size > LARGEST:
            raise RowError("image-too-large", f"{name} unpacks to {told.file_size:,} bytes")
        if told.compress_type not in _PACKED:
            raise RowError("image-unreadable", f"{name} in the archive is packed in a way that is not read here")
        try:
            with self._zip.open(told) as file:
                # Never without a number: then all that it unpacks to is in memory before it is held against what the
                # archive says of it. The one more byte is where the check sum is looked at.
                data = file.read(told.file_size + 1)
        except Exception as error:
            # Encrypted, cut short, damaged: of damaged archives zipfile raises anything, such as a negative place.
            raise RowError("image-unreadable", f"{name} in the archive: {str(error) or type(error).__name__}") from None
        if len(data) != told.file_size:
            raise RowError("image-unreadable", f"{name} in the archive is cut short")
        return data


def open_root(path: Path) -> Root:
    """The root at a path; UserError when it is neither a folder nor a readable zip archive."""
    return Archive(path) if path.is_file() else Folder(path)
