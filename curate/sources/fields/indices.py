"""Numbers of steps and of choices: whether a file counts from 0 or from 1 shows in all of its rows only."""

from __future__ import annotations

from curate.recipe.chain_sections import IndexChains
from curate.recipe.source_sections import MappedSource
from curate.sources.base import Record
from curate.sources.values import look, number_of

# So many numbers without a 0 are no chance.
_ENOUGH = 20


class IndexColumns:
    """What the index columns of a source hold, seen row by row, where the recipe takes them to count from 0."""

    def __init__(self, source: MappedSource) -> None:
        self._source = source
        self._seen: dict[tuple[str, str], list[int]] = {}
        self._columns: list[tuple[str, str]] = []
        chain, answer = source.chain, source.columns.answer
        if isinstance(chain, IndexChains) and not chain.labels_from:
            self._columns.append((chain.labels, "chain.labels_from"))
        if source.answer_form == "index" and answer and not source.answer_from:
            self._columns.append((answer, "answer_from"))

    def see(self, record: Record) -> None:
        """Take down the least index of each column of this record."""
        for column, setting in self._columns:
            found = look(record, column)
            numbers = [number_of(each) for each in (found if isinstance(found, list) else [found])]
            known = [each for each in numbers if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
            if known:
                state = self._seen.setdefault((column, setting), [0, min(known)])
                state[0], state[1] = state[0] + 1, min(state[1], *known)

    def notes(self) -> list[str]:
        """One sentence for each column that seems to count from 1."""
        return [
            f'Source "{self._source.name}": the least of {count:,} numbers in {column} is {least}; if they count from '
            f"1, set {setting}: 1 and ingest it again (--replace {self._source.name})."
            for (column, setting), (count, least) in self._seen.items()
            if least > 0 and count >= _ENOUGH
        ]
