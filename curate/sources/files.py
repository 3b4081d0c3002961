"""Source: one local file of JSON Lines, JSON, Parquet, Arrow, CSV or TSV, with images in its columns or in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from curate.errors import RowError, UserError
from curate.recipe.source_sections import FilesSource
from curate.sources import columns
from curate.sources.base import BadRow, Numbered, SourceRow
from curate.sources.readers import delimited
from curate.sources.readers.arrow_files import arrow, parquet
from curate.sources.readers.inputs import Input
from curate.sources.readers.json_files import lines, whole
from curate.sources.roots import open_root

# So many records are read before the columns are checked.
_LOOK_AHEAD = 100


class FileReader:
    """Rows of a file, read as a stream; a line that cannot be read is one bad row, named by its number from 1.

    `notes` are there when all rows were read: what shows in the file as a whole.
    """

    def __init__(self, config: FilesSource, base: Path) -> None:
        self._config = config
        self._path = config.path if config.path.is_absolute() else base / config.path
        root = config.root if config.root is not None else self._path.parent
        at = root if root.is_absolute() else base / root
        if config.root is not None and not at.exists():
            raise UserError(
                f'Source "{config.name}": there is no image folder or archive at {config.root}; check root.'
            )
        self._root = open_root(at)
        self.notes: list[str] = []
        if config.records is not None and Input.of(self._path).kind != _JSON:
            raise UserError(
                f'Source "{config.name}": records has no effect with {config.path.name}, which is not a .json file.'
            )
        if not self._path.is_file():
            raise UserError(f'Source "{config.name}": there is no file at {config.path}; check ingest.sources.')

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, in the order of the file."""
        what = f'Source "{self._config.name}": '
        wanted = columns.wanted(self._config)
        names, records = read_input(Input.of(self._path), what, wanted, self._config.records)
        if names:
            columns.check(self._config, names, what + self._path.name)
        yield from columns.problems(records, self._config, self._root, self.notes)


def read(path: Path, what: str = "", wanted: Collection[str] = ()) -> tuple[list[str], Iterator[Numbered]]:
    """The columns and the records of a file, numbered or by name; UserError when it is of no kind that is read here.

    Of JSON, columns are looked for in the first records together, as one may lack what others have (null), and in all
    of them where a `wanted` one is not among those.
    """
    return read_input(Input.of(path), what, wanted)


def is_read(path: Path) -> bool:
    """Whether `read` takes a file of this name."""
    return Input.of(path).kind in (*_LINES, _JSON, *TABLES)


def read_input(
    found: Input, what: str = "", wanted: Collection[str] = (), under: str | None = None
) -> tuple[list[str], Iterator[Numbered]]:
    """`read` of any input; `under` is the key that holds the rows of a JSON file."""
    table = TABLES.get(found.kind)
    if table is not None:
        return table(found)
    if found.kind not in (*_LINES, _JSON):
        raise UserError(
            f"{what}{found.name} is not one of {', '.join(KINDS)}, plain or compressed (.gz); convert it first."
        )

    def records() -> Iterator[Numbered]:
        return lines(found) if found.kind in _LINES else whole(found, wanted, under)

    coming = records()
    ahead = list(itertools.islice(coming, _LOOK_AHEAD))
    names = _names(ahead, {})
    if len(ahead) == _LOOK_AHEAD and not set(wanted) <= names.keys():
        # They may begin later; what is read once more is not held.
        again = itertools.islice(records(), _LOOK_AHEAD, None)
        while not set(wanted) <= names.keys() and (more := list(itertools.islice(again, _LOOK_AHEAD))):
            names = _names(more, names)
    return list(names), itertools.chain(ahead, coming)


def _names(records: Iterable[Numbered], known: dict[str, None]) -> dict[str, None]:
    return known | {name: None for _, record in records if not isinstance(record, RowError) for name in record}


_LINES, _JSON = (".jsonl", ".ndjson"), ".json"
TABLES: dict[str, Callable[[Input], tuple[list[str], Iterator[Numbered]]]] = {
    ".csv": partial(delimited.rows, usual=","),
    ".tsv": partial(delimited.rows, usual="\t"),
    ".parquet": parquet,
    ".arrow": arrow,
}
KINDS = (*_LINES, _JSON, *TABLES)
