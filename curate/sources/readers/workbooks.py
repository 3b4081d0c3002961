"""The first sheet of an Excel workbook (.xlsx), as evaluation programs save their results.

A workbook is a zip archive of XML files. Only what a table of results has is read: texts, numbers and truth values; the
first row holds the names of the columns. Of a formula the stored value counts.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from curate.errors import RowError, UserError
from curate.sources.base import Numbered

# An unpacked member may be so large; a bomb is larger.
_MEMBER_BYTES = 2**30
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
_CELL = re.compile(r"([A-Z]{1,3})\d+")


def read(path: Path) -> Iterator[Numbered]:
    """The numbered rows of the first sheet as records; UserError where the file is no workbook."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            sheets = sorted(
                (name for name in members if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name)),
                key=lambda name: int(re.sub(r"\D", "", name)),
            )
            if not sheets:
                raise UserError(f"{path.name} is not a workbook with a sheet; save it as .csv or .tsv.")
            texts = list[str]()
            if "xl/sharedStrings.xml" in members:
                with _open(archive, members["xl/sharedStrings.xml"], path) as member:
                    texts = list(_shared(member))
            with _open(archive, members[sheets[0]], path) as member:
                yield from _records(_rows(member, texts))
    except (zipfile.BadZipFile, ElementTree.ParseError, OSError, EOFError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"{path.name} is not a readable workbook ({str(error)[:80]}); save it as .csv or .tsv."
        ) from None


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    if info.file_size > _MEMBER_BYTES:
        raise UserError(f"{path.name} unpacks to {info.file_size:,} bytes; save it as .csv or .tsv.")
    member = archive.open(info)
    # Entities have no place in a workbook, and are how XML makes much of little.
    if b"<!DOCTYPE" in member.read(1024):
        raise UserError(f"{path.name} declares a document type, which no workbook does; save it as .csv or .tsv.")
    member.seek(0)
    return member


def _shared(member: IO[bytes]) -> Iterator[str]:
    """The texts that cells name by number."""
    for _, node in ElementTree.iterparse(member):  # noqa: S314 (see `_open`)
        if node.tag == f"{_MAIN}si":
            yield _text(node)
            node.clear()


def _text(node: ElementTree.Element) -> str:
    """The text of a cell or shared string: of all its runs, but not of its phonetic hints."""
    runs = [*node.findall(f"{_MAIN}t"), *node.findall(f"{_MAIN}r/{_MAIN}t")]
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), "".join(run.text or "" for run in runs))


def _rows(member: IO[bytes], texts: list[str]) -> Iterator[dict[int, Any]]:
    """Each row that is not empty: its values by column, from 0."""
    for _, node in ElementTree.iterparse(member):  # noqa: S314 (see `_open`)
        if node.tag != f"{_MAIN}row":
            continue
        row: dict[int, Any] = {}
        for place, cell in enumerate(node.findall(f"{_MAIN}c")):
            match = _CELL.fullmatch(cell.get("r", ""))
            value = _value(cell, texts)
            if value is not None:
                row[_column(match[1]) if match else place] = value
        node.clear()
        if row:
            yield row


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, texts: list[str]) -> Any:
    """A cell's value; null where it is empty or an error."""
    kind, value = cell.get("t", "n"), cell.findtext(f"{_MAIN}v")
    if kind == "inlineStr":
        inline = cell.find(f"{_MAIN}is")
        return None if inline is None else _text(inline) or None
    if value is None or kind == "e":
        return None
    if kind == "s":
        return texts[int(value)] or None
    if kind == "b":
        return value == "1"
    return (int(value) if re.fullmatch(r"-?\d+", value) else float(value)) if kind == "n" else value or None


def _records(rows: Iterator[dict[int, Any]]) -> Iterator[Numbered]:
    header = {place: str(name) for place, name in next(rows, {}).items()}
    double = {name for name in header.values() if list(header.values()).count(name) > 1}
    if double:
        raise UserError(f'The sheet has two columns "{min(double)}"; give one another name.')
    for number, row in enumerate(rows, start=1):
        if stray := row.keys() - header.keys():
            yield (
                number,
                RowError("malformed-line", f"row {number} has a value in a column without a name: {min(stray)}"),
            )
        else:
            yield number, {name: row.get(place) for place, name in header.items()}
