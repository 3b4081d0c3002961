"""A file as bytes, here or elsewhere, packed or not: what the readers open, as often as they need to."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from curate.errors import UserError

_PACKED: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNPACKED = (OSError, EOFError, zlib.error, lzma.LZMAError)
# The longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_POINTER = b"version https://git-lfs.github.com/spec/"
# So many bytes tell the encoding of a text without a mark.
_HEAD = 64


@dataclass(frozen=True)
class Input:
    """`name` is what messages call it, and tells its kind; `raw` opens its bytes as they lie there.

    `at` is where it lies, for those who ask.
    """

    name: str
    raw: Callable[[], IO[bytes]]
    at: str = ""

    @classmethod
    def of(cls, path: Path) -> Input:
        """A file on this machine."""
        return cls(path.name, lambda: path.open("rb"))

    @property
    def kind(self) -> str:
        """The ending that tells how to read it, in small letters: ".csv" of "A.CSV.gz"."""
        path = PurePosixPath(self.name.lower())
        return PurePosixPath(path.stem).suffix if path.suffix in _PACKED else path.suffix

    def check(self) -> None:
        """UserError when only a pointer to the data is there, as a clone without Git LFS has it."""
        with self.raw() as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise UserError(f"{self.name} is a Git LFS pointer, not the data; get that with: git lfs pull")

    @contextmanager
    def unpacked(self) -> Iterator[IO[bytes]]:
        """The bytes of the file, unpacked; UserError when they cannot be unpacked."""
        self.check()
        unpack = _PACKED.get(PurePosixPath(self.name.lower()).suffix)
        with self.raw() as file:
            if unpack is None:
                yield file
                return
            try:
                with unpack(file) as plain:
                    yield plain
            except _UNPACKED as error:
                raise UserError(
                    f"{self.name} cannot be unpacked ({str(error) or 'cut short'}); get it again."
                ) from None

    @contextmanager
    def text(self) -> Iterator[IO[bytes]]:
        """The bytes of a text; UserError that names the encoding when that is plainly not UTF-8."""
        with self.unpacked() as file:
            head = file.read(_HEAD)
        found = _encoding(head)
        if found is not None:
            raise UserError(f"{self.name} is {found}, not UTF-8; save it as UTF-8.")
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            raise UserError(f"{self.name} is a web page, not the data; get the file itself.")
        with self.unpacked() as file:
            yield file


def _encoding(head: bytes) -> str | None:
    """The encoding of a text that begins like this, where it is one of wide characters."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    # Letters of the Latin alphabet have a zero byte beside them.
    even, odd = head[::2], head[1::2]
    if len(head) >= 4 and (not any(even) or not any(odd)) and any(head):
        return "UTF-16" if sum(map(bool, head)) * 2 >= len(head) - 1 else "UTF-32"
    return None
