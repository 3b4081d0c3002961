"""A sample of records as columns, nested fields included, and what the values of a column look like. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curate.errors import RowError
from curate.sources.base import Record
from curate.sources.values import look, text_of

# Fields of structs in structs are looked at this deep.
_DEPTH = 3
# So many columns are looked at; a table of pixels or embeddings has more.
_MAX = 400
_IMAGE_NAME = re.compile(r"\.(?:png|jpe?g|gif|bmp|webp|tiff?|jp2)$", re.IGNORECASE)
_BASE64_IMAGE = re.compile(r"(?:data:image/|iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-9A-Za-z]{2}|SUkq|TU0A)")
# Shorter texts that begin like an image in base64 are words.
_LEAST_BASE64 = 60


def blank(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, white space, an empty list or struct."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list | tuple | Mapping | bytes):
        return not value
    return value is None or value != value


@dataclass(frozen=True, eq=False)
class SampledColumn:
    """The values of one column, one for each record; null where a record lacks it."""

    name: str
    values: Sequence[Any]

    @cached_property
    def present(self) -> list[Any]:
        """The values that hold something."""
        return [value for value in self.values if not blank(value)]

    @cached_property
    def filled(self) -> float:
        """The share of records that have a value, from 0 to 1."""
        return len(self.present) / len(self.values) if self.values else 0.0

    @cached_property
    def texts(self) -> list[str]:
        """The present values as texts, as far as they are scalars."""
        return [text for value in self.present if (text := scalar(value)) is not None]

    @cached_property
    def plain(self) -> str:
        """The last part of its name in lower case, letters and digits only: `meta.Question_text` is questiontext."""
        return re.sub(r"[^0-9a-z]", "", self.name.rpartition(".")[2].lower())

    @cached_property
    def distinct(self) -> int:
        """How many different texts there are."""
        return len(set(self.texts))

    @cached_property
    def length(self) -> float:
        """The mean number of characters of its texts; 0 where it has none."""
        return sum(map(len, self.texts)) / len(self.texts) if self.texts else 0.0

    def share(self, test: Callable[[Any], bool]) -> float:
        """The share of the present values that pass a test, from 0 to 1; 0 where there is none."""
        return sum(map(test, self.present)) / len(self.present) if self.present else 0.0

    @cached_property
    def is_text(self) -> bool:
        """Whether nearly all of its values are texts or numbers that are one cell."""
        return bool(self.present) and len(self.texts) >= 0.95 * len(self.present)


def scalar(value: Any) -> str | None:
    """The text of a value that is one cell; null for lists, structs, bytes and what is no text."""
    if isinstance(value, list | tuple | Mapping | bytes):
        return None
    try:
        return text_of(value)
    except RowError:
        return None


def columns_of(records: Sequence[Record]) -> list[SampledColumn]:
    """All columns of a sample in the order of their first appearance; fields of structs as `a.b`."""
    names: dict[str, None] = {}
    for record in records:
        for name, value in record.items():
            for each in _names(str(name), value, _DEPTH):
                if len(names) < _MAX:
                    names.setdefault(each)
    return [SampledColumn(name, [look(record, name) for record in records]) for name in names]


def _names(name: str, value: Any, depth: int) -> Iterator[str]:
    yield name
    if depth == 0 or image_kind(value) is not None:
        return
    for struct in _structs(value):
        for field, below in struct.items():
            yield from _names(f"{name}.{field}", below, depth - 1)


def _structs(value: Any) -> Iterator[Mapping[str, Any]]:
    """A struct, or the first structs of a list, or of lists in a list."""
    if isinstance(value, Mapping):
        yield value
    elif isinstance(value, list):
        for each in value[:3]:
            yield from _structs(each)


def image_kind(value: Any) -> str | None:
    """How a value holds an image: `bytes` (also in a struct or as base64), `path`, or null where it does not."""
    if isinstance(value, list | tuple):
        kinds = {image_kind(item) for item in value}
        return kinds.pop() if len(kinds) == 1 else None
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & value.keys() or value.keys() - {"bytes", "path"}:
            return None
        return "bytes" if value.get("bytes") is not None else "path" if value.get("path") else None
    if isinstance(value, bytes):
        return "bytes"
    if not isinstance(value, str):
        return None
    if _BASE64_IMAGE.match(value) and len(value) >= _LEAST_BASE64 and " " not in value[:200]:
        return "bytes"
    return "path" if _IMAGE_NAME.search(value) and "\n" not in value and len(value) < 300 else None
