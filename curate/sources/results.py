"""Files of results, read for `curate import-rollouts`: what sources are read from, workbooks, and JSON below a key.

Evaluation programs like to write one JSON object that holds all records by their ids, at its top or below a key beside
the figures of the run. Such a record gets its key as the column `key`, unless it has one of that name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from curate.errors import RowError, UserError
from curate.sources import files
from curate.sources.base import Numbered
from curate.sources.readers import workbooks

KEY = "key"
# The column of an entry that is no object.
VALUE = "value"


def read(path: Path, below: str | None = None, wanted: Collection[str] = ()) -> tuple[list[str], Iterator[Numbered]]:
    """The columns and the numbered records of a file; `below` names the key of a JSON file that holds the records.

    An object that has one of the `wanted` columns is a record itself. UserError when the file is of no kind that is
    read here.
    """
    kind = path.suffix.lower()
    records: list[Numbered]
    if kind == ".xlsx":
        records = list(workbooks.read(path))
        return _names(records), iter(records)
    if kind == ".json" and (whole := _object(path)) is not None:
        alone = below is None and any(column.partition(".")[0] in whole for column in wanted)
        records = [(1, dict(whole))] if alone else list(_entries(whole, below, path.name))
        return _names(records), iter(records)
    if below is not None:
        raise UserError(f"--records names a key of a JSON object, and {path.name} is none.")
    return files.read(path)


def _names(records: list[Numbered]) -> list[str]:
    return list(dict.fromkeys(name for _, record in records if not isinstance(record, RowError) for name in record))


def _object(path: Path) -> Mapping[str, Any] | None:
    """The object that a JSON file consists of; None for any other file."""
    try:
        whole = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _entries(whole: Mapping[str, Any], below: str | None, name: str) -> Iterator[Numbered]:
    found: Any = whole
    for part in below.split(".") if below is not None else ():
        if not isinstance(found, dict) or part not in found:
            raise UserError(
                f'{name} has nothing at "{below}" (--records); its keys are: {", ".join(list(whole)[:20])}.'
            )
        found = found[part]
    if below is None and not all(isinstance(each, dict) for each in found.values()):
        holding = [key for key, each in found.items() if isinstance(each, dict | list) and each]
        raise UserError(
            f"{name} is one JSON object, whose entries are not all records; give --records, the key that holds them"
            + (f", such as {', '.join(holding[:5])}." if holding else ".")
        )
    if not isinstance(found, dict | list):
        raise UserError(f'{name} has no list or object of records at "{below}" (--records).')
    keyed = found.items() if isinstance(found, dict) else ((None, each) for each in found)
    for number, (key, each) in enumerate(keyed, start=1):
        record = each if isinstance(each, dict) else {VALUE: each}
        yield number, record if key is None else {KEY: key} | record
