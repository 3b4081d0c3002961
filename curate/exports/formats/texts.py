"""Files of JSON that are written a record at a time, and images in a folder beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from curate.errors import UserError
from curate.exports.base import ExportImage


def encoded(record: Any) -> bytes:
    """A record as JSON on one line."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode()


class JsonLines:
    """JSON Lines."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("wb")

    def add(self, record: Any) -> None:
        """Another line."""
        self._file.write(encoded(record) + b"\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class Array(JsonLines):
    """One JSON array, a record a line."""

    _count = 0

    def add(self, record: Any) -> None:
        """Another record."""
        self._file.write((b",\n" if self._count else b"[\n") + encoded(record))
        self._count += 1

    def close(self) -> None:
        """Finish the file; an array without records is one, too."""
        self._file.write(b"\n]\n" if self._count else b"[]\n")
        self._file.close()


class ImageFolder:
    """A folder of images, each once, under its content hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._there: set[str] = set()

    def name(self, image: ExportImage) -> str:
        """The image's name in the folder, in which it is from now on."""
        name = image.name
        if name not in self._there:
            # A hash is hexadecimal: whatever else stood in a table would not be a path of ours.
            if not name.replace(".", "").isalnum():
                raise UserError(f"The name of image {name} cannot be the name of a file; ingest its source again.")
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / name).write_bytes(image.data)
            self._there.add(name)
        return name
