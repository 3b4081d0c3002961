"""CSV and TSV whose quotes may mean nothing: rows out of lines, where no row disappears in another one's cell.

A cell is in quotes when it begins with one and the next single one ends it, before a delimiter or the end of the line.
Every other quote is a character. Where a cell in quotes goes over lines that are rows by themselves, both readings are
possible, and the file decides: see `_TableLines.trusted`.
"""

from __future__ import annotations

import io
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from curate.errors import RowError, UserError
from curate.sources.readers.inputs import Input

# A cell in quotes is no longer than this: a quote that nothing closes would take in the rest of the file.
_LONGEST = 64 * 2**20
# So many cells that are in quotes beyond doubt make a file one whose quotes are meant.
_PROOF = 3
_OPEN = re.compile(r'"(?:[^"]|"")*\Z')


@dataclass(frozen=True)
class _Record:
    """A row's cells and its lines, the first of which has this number (from 1).

    `quoted` counts the cells in quotes, `stray` says that a quote is a character, `doubtful` that the lines are rows by
    themselves, too.
    """

    cells: list[str]
    number: int
    lines: Sequence[str]
    quoted: int = 0
    stray: bool = False
    doubtful: bool = False


def rows(found: Input, usual: str) -> tuple[list[str], Iterator[tuple[int, dict[str, str | None] | RowError]]]:
    """The columns, and the rows numbered from 1 behind the header; empty cells are null.

    Cells are parted by the `usual` delimiter, or by the one that the header has instead. UserError when a column is
    there twice.
    """
    lines = _TableLines(found, _delimiter(found, usual))
    records = lines.resolved()
    first = next(records, None)
    header = [cell.strip().encode(errors="replace").decode() for cell in first.cells] if first else []
    twice = [column for column, count in Counter(header).items() if count > 1 and column]
    if twice:
        raise UserError(f'{found.name} has the column "{twice[0]}" twice; rename or delete one of them.')
    return header, _rows(records, header)


def _delimiter(found: Input, usual: str) -> str:
    """Spreadsheets of some countries write semicolons; some files are called CSV and have tabulators."""
    with found.text() as file:
        header = file.readline().decode("utf-8", "replace")
    return next((each for each in (usual, "\t", ";", ",") if each in header), usual)


def _rows(records: Iterator[_Record], header: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None] | RowError]]:
    for number, record in enumerate(records, start=1):
        if record.cells == [""]:
            continue
        try:
            yield number, _row(record, number, header)
        except RowError as error:
            yield number, error


def _row(record: _Record, number: int, header: Sequence[str]) -> dict[str, str | None]:
    cells = record.cells
    if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
        raise RowError("not-utf-8", f"row {number} has bytes that are not UTF-8")
    if record.doubtful:
        last = record.number + len(record.lines) - 1
        raise RowError(
            "ambiguous-quotes",
            f"lines {record.number} to {last} are one row with a cell in quotes or {len(record.lines)} rows; put every "
            "text into quotes, with its own quotes doubled",
        )
    if len(cells) != len(header):
        raise RowError("malformed-line", f"row {number} has {len(cells)} cells, not {len(header)}")
    return {name: cell if cell != "" else None for name, cell in zip(header, cells, strict=True)}


class _Cells(NamedTuple):
    """A row as far as `end` in a text: its cells, how many are in quotes, and whether a quote is a character."""

    cells: list[str]
    quoted: int
    stray: bool
    end: int


class _TableLines:
    """The lines of a file, put together to rows."""

    def __init__(self, found: Input, delimiter: str) -> None:
        self._input, self._delimiter = found, delimiter
        mark = re.escape(delimiter)
        end = rf"(?=[{mark}\r\n]|\Z)"
        self._plain = re.compile(rf"[^{mark}\r\n]*")
        self._doubled = re.compile(rf'"((?:[^"]|"")*)"{end}')
        # As some programs write quotes inside of quotes.
        self._escaped = re.compile(rf'"((?:[^"\\]|\\.)*)"{end}', re.DOTALL)
        self._width: int | None = None

    @cached_property
    def trusted(self) -> bool:
        """Whether quotes are meant in this file: every row has the header's cells, no quote is a mere character, and
        enough cells are in quotes beyond doubt. Reads the whole file.
        """
        proof, lines = 0, _TableLines(self._input, self._delimiter)
        for record in lines.records():
            if record.stray or (len(record.cells) != lines._width and record.cells != [""]):
                return False
            proof += 0 if record.doubtful else record.quoted
        return proof >= _PROOF

    def resolved(self) -> Iterator[_Record]:
        """Every row, the header first; `doubtful` are only those that the file does not decide."""
        for record in self.records():
            if not record.doubtful:
                yield record
            elif self.trusted:
                yield _Record(record.cells, record.number, record.lines)
            elif self._delimiter == "\t":
                # Hardly a text has tabulators.
                for place, line in enumerate(record.lines):
                    yield _Record(self._split(line), record.number + place, (line,))
            else:
                yield record

    def records(self) -> Iterator[_Record]:
        """Every row, the header first; an empty line is a row of one empty cell."""
        with (
            self._input.text() as file,
            # A line ends as the file has it; a byte that is no UTF-8 costs its row only.
            io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
        ):
            ahead, number = deque[str](), 1
            while line := ahead.popleft() if ahead else text.readline():
                if '"' in line:
                    record = self._quoted(line, ahead, text, number)
                else:
                    record = _Record(self._split(line), number, (line,))
                if self._width is None:
                    self._width = len(record.cells)
                number += len(record.lines)
                yield record

    def _split(self, line: str) -> list[str]:
        return line.rstrip("\r\n").split(self._delimiter)

    def _quoted(self, line: str, ahead: deque[str], text: io.TextIOWrapper, number: int) -> _Record:
        """The row that begins with this line; takes the lines that it needs off those that are ahead."""
        lines, length, found = [line], len(line), self._cells(line)
        while found is None and length <= _LONGEST:
            if len(lines) > len(ahead):
                ahead.append(text.readline())
            lines.append(ahead[len(lines) - 1])
            length += len(lines[-1])
            if not lines[-1]:
                break
            # A line without a quote closes nothing.
            found = self._cells("".join(lines)) if '"' in lines[-1] else None
        while ahead and not ahead[-1]:
            ahead.pop()
        whole = found is not None and found.end >= len("".join(lines).rstrip("\r\n"))
        if found is None or not whole or (len(lines) > 1 and self._width not in (None, len(found.cells))):
            # Nothing closes the quote, or what closes it makes no row.
            found = self._cells(line, closed=True)
            assert found is not None  # noqa: S101
            return _Record(found.cells, number, (line,), found.quoted, stray=True)
        for _ in lines[1:]:
            ahead.popleft()
        alone = [each for each in lines if each.strip("\r\n")]
        doubtful = len(alone) > 1 and all(len(self._split(each)) == self._width for each in alone)
        return _Record(found.cells, number, lines, found.quoted, found.stray, doubtful)

    def _cells(self, text: str, closed: bool = False) -> _Cells | None:
        """The cells of the row that the text begins with; null where the text ends in quotes, unless it is `closed`."""
        cells, quoted, stray, at = list[str](), 0, False, 0
        while True:
            match = None
            if text.startswith('"', at):
                match = self._doubled.match(text, at)
                if match is not None:
                    cells.append(match[1].replace('""', '"'))
                elif not closed and _OPEN.match(text, at):
                    return None
                elif (match := self._escaped.match(text, at)) is not None:
                    cells.append(match[1].replace('\\"', '"'))
            if match is not None:
                quoted += 1
            else:
                match = self._plain.match(text, at)
                assert match is not None  # noqa: S101
                cells.append(match[0])
                stray = stray or '"' in match[0]
            at = match.end()
            if not text.startswith(self._delimiter, at):
                return _Cells(cells, quoted, stray, at)
            at += 1
