"""Source: DreamPRM's train and meta files, one JSON array each, into problems, chains and step labels.

The form is that of `curate.exports.formats.dreamprm`, which names where it is from. A row of a train file is one prefix
of a chain; rows that continue one another become one chain, in whatever order they stand. A prefix that is not there
leaves a step without a label where the longer text can be cut there, else a longer step. What `curate export dreamprm`
adds to a row (its key `curate`) is taken before what the row's texts say.

The meta file that DreamPRM published (b1ac486, data/meta.json) has a response in 129 of 249 right rows and in none of
251 wrong ones, so whether there is a response gives the label away: such a file is pointed out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curate.errors import RowError, UserError
from curate.graders import GRADERS
from curate.recipe.source_sections import DreamPrmSource
from curate.sources.base import BadRow, GivenChain, SourceRow
from curate.sources.roots import Root, open_root
from curate.sources.values import text_of, writable
from curate.text import steps
from curate.text.forms import lettered

Record = Mapping[str, Any]
# A question with options may have empty lines of its own; without options, the first one ends it.
_META = (
    re.compile(r"Question: (?P<question>.*?)\nOptions: (?P<options>[^\n]*)(?:\n\n(?P<response>.*))?", re.DOTALL),
    re.compile(r"Question: (?P<question>.*?)(?P<options>)(?:\n\n(?P<response>.*))?", re.DOTALL),
)
# Shares of right and of wrong rows with a response that lie further apart give labels away.
_LEAK = 0.1
# Steps that a text is cut into at most.
_MAX = 100


@dataclass
class _ChainRecords:
    """Rows of a train file that continue one another: number of the first one, and the records by length of text."""

    number: int
    records: list[Record] = field(default_factory=list)

    def goes_on_with(self, record: Record) -> bool:
        last = self.records[-1]["add"]
        return len(record["add"]) > len(last) and record["add"].startswith(last)


class DreamPrmReader:
    """Rows of one file. `notes` are there when all rows were read: what is wrong with the file as a whole."""

    def __init__(self, config: DreamPrmSource, base: Path) -> None:
        self._config = config
        self._path = config.path if config.path.is_absolute() else base / config.path
        if not self._path.is_file():
            raise UserError(f'Source "{config.name}": there is no file at {config.path}; check ingest.sources.')
        root = self._path.parent if config.root is None else config.root
        at = root if root.is_absolute() else base / root
        if not at.exists():
            raise UserError(
                f'Source "{config.name}": there is no image folder or archive at {config.root}; check root.'
            )
        self._root: Root = open_root(at)
        self.notes: list[str] = []

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows of a meta file, all chains of a train file in the order of their first rows."""
        records = self._records()
        self._point_out([record for record in records if isinstance(record, Mapping)])
        yield from itertools.islice(self._all(records), self._config.limit)

    def _all(self, records: Sequence[Any]) -> Iterator[SourceRow | BadRow]:
        groups: dict[str, list[tuple[int, Record]]] = {}
        for number, record in enumerate(records, start=1):
            try:
                if not isinstance(record, Mapping):
                    raise RowError("malformed-row", f"row {number} is no JSON object")
                if "true_false" in record:
                    yield self._meta(number, record)
                else:
                    groups.setdefault(_group(record), []).append((number, record))
            except RowError as error:
                yield BadRow(str(number), error)
        for chain in sorted((each for group in groups.values() for each in _chains(group)), key=lambda c: c.number):
            try:
                yield self._train(chain)
            except RowError as error:
                yield BadRow(str(chain.number), error)

    def _records(self) -> list[Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{self._path.name} is not a readable JSON file ({first}); get it again.") from None
        if not isinstance(found, list):
            raise UserError(f"{self._path.name} is not a JSON array of rows; check ingest.sources.")
        return found

    def _train(self, chain: _ChainRecords) -> SourceRow:
        first, kept = chain.records[0], _kept(chain.records[0])
        ends = set(itertools.accumulate(map(len, steps.split(chain.records[-1]["add"], _MAX))))
        pieces, values, counts = list[str](), list[float | None](), list[tuple[int, int] | None]()
        start = 0
        for record in chain.records:
            text = record["add"]
            between = sorted(end for end in ends if start < end < len(text))
            # As many as the numbers of the steps say, or one longer step.
            cuts = between if _sid(record) - len(pieces) == len(between) + 1 else []
            pieces += [text[a:b] for a, b in itertools.pairwise([start, *cuts, len(text)])]
            values += [None] * len(cuts) + [_accuracy(record)]
            counts += [None] * len(cuts) + [_count(record)]
            start = len(text)
        # Whether the last prefix is the whole chain, the file does not say.
        given = GivenChain(pieces, values, counts, _outcome(kept.get("outcome")), whole=False)
        return self._row(chain.number, first, text_of(first.get("input")), (), first.get("ground_truth"), given)

    def _meta(self, number: int, record: Record) -> SourceRow:
        right, said = record["true_false"], text_of(record.get("input"))
        if not isinstance(right, bool):
            raise RowError("unusable-label", f"true_false is neither true nor false: {str(right)[:40]!r}")
        match = _parts(said or "")
        if match is None:
            raise RowError("unknown-form", f'the input does not begin with "Question: ": {str(said)[:80]}')
        response = _texts(_kept(record).get("steps")) or steps.split((match["response"] or "").strip())
        if not all(each.strip() for each in response) or not response:
            raise RowError("no-steps", "the row is a question without a response")
        choices = lettered(match["options"] or "")
        given = GivenChain(response, outcome=right)
        return self._row(number, record, match["question"].strip(), choices, None, given)

    def _row(
        self,
        number: int,
        record: Record,
        question: str | None,
        choices: Sequence[str],
        answer: Any,
        chain: GivenChain,
    ) -> SourceRow:
        kept, path = _kept(record), text_of(record.get("image_path"))
        tolerance, kind = kept.get("tolerance"), kept.get("answer_type")
        name = "-".join(writable(str(part)) for part in (record.get("id"), number) if part is not None)
        return SourceRow(
            source_row=name,
            question=text_of(kept.get("question", question)),
            answer=text_of(kept.get("answer", answer)),
            choices=_texts(kept.get("choices", choices)),
            images=() if path is None else (self._root.read(path),),
            domain=text_of(kept.get("domain") or record.get("dataset")),
            answer_type=kind if kind in GRADERS else None,
            accepted=_texts(kept.get("accepted")),
            tolerance=tolerance if isinstance(tolerance, float) and 0 < tolerance < 1 else None,
            chain=chain,
        )

    def _point_out(self, records: Sequence[Record]) -> None:
        """A note when having a response goes with being right."""
        rows: Counter[bool] = Counter()
        answered: Counter[bool] = Counter()
        for record in records:
            right, match = record.get("true_false"), _parts(str(record.get("input")))
            if isinstance(right, bool) and match is not None:
                rows[right] += 1
                answered[right] += bool((match["response"] or "").strip())
        if len(rows) < 2 or abs(answered[True] / rows[True] - answered[False] / rows[False]) <= _LEAK:
            return
        self.notes.append(
            f'Source "{self._config.name}": {self._path.name} gives its labels away: of {rows[True]} rows that are '
            f"marked true {answered[True]} have a response, of {rows[False]} that are marked false {answered[False]}; "
            "rows without one are left out, and what is left is no fair meta set: make one of your own."
        )


def _parts(text: str) -> re.Match[str] | None:
    """Question, options and response of a meta row; null where it has another form."""
    return next((match for form in _META if (match := form.fullmatch(text)) is not None), None)


def _group(record: Record) -> str:
    """Rows of one question and rollout, as far as the record tells; RowError for a record that is no prefix."""
    text = text_of(record.get("add"))
    if text is None or not text.strip():
        raise RowError("no-steps", f"add is no text: {str(record.get('add'))[:80]!r}")
    told = [record.get(name) for name in ("dataset", "id", "input", "image_path")]
    return json.dumps([*told, _kept(record).get("rollout_id")], sort_keys=True, default=str)


def _chains(group: Sequence[tuple[int, Record]]) -> Iterator[_ChainRecords]:
    """Each record continues the first chain that it can, the shortest texts first; else it begins one."""
    found = list[_ChainRecords]()
    for number, record in sorted(group, key=lambda each: len(each[1]["add"])):
        chain = next((chain for chain in found if chain.goes_on_with(record)), None)
        if chain is None:
            chain = _ChainRecords(number)
            found.append(chain)
        chain.records.append(record)
        chain.number = min(chain.number, number)
    yield from found


def _kept(record: Record) -> Record:
    found = record.get("curate")
    return found if isinstance(found, Mapping) else {}


def _sid(record: Record) -> int:
    found = record.get("sid")
    return found if isinstance(found, int) else 0


def _accuracy(record: Record) -> float:
    found = record.get("accuracy")
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1:
        raise RowError("unusable-label", f"accuracy is no number from 0 to 1: {str(found)[:40]!r}")
    return float(found)


def _count(record: Record) -> tuple[int, int] | None:
    k, m = record.get("score"), record.get("times")
    if k is None or m is None:
        return None
    if not isinstance(k, int) or not isinstance(m, int) or not 0 <= k <= m or not m:
        raise RowError("unusable-label", f"score {str(k)[:40]} of {str(m)[:40]} times")
    return k, m


def _outcome(found: Any) -> bool | None:
    return found if isinstance(found, bool) else None


def _texts(found: Any) -> tuple[str, ...]:
    return tuple(str(text_of(each)) for each in found) if isinstance(found, list | tuple) else ()
