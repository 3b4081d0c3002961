"""Source: a dataset on the Hugging Face hub, or a folder that `datasets` can load, read as a stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.config import HubSource
from curate.errors import UserError
from curate.sources import columns
from curate.sources.base import BadRow, SourceRow


class Hub:
    """Rows of one split; pictures as their original bytes. A local folder's image paths stay inside the folder."""

    def __init__(self, config: HubSource, base: Path) -> None:
        self._config = config
        local = base / config.dataset
        self._root = local if local.is_dir() else None
        self._dataset = str(local) if self._root else config.dataset

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, in the order of the dataset."""
        data = self._open()
        what = f'Source "{self._config.name}": {self._config.dataset}'
        if data.column_names is not None:
            columns.check(self._config.columns, data.column_names, what)
        for number, record in enumerate(itertools.islice(self._records(data), self._config.limit), start=1):
            if number == 1:
                columns.check(self._config.columns, record, what)
            yield columns.row(record, self._config.columns, number, self._root)

    def _open(self) -> Any:
        try:
            import datasets
        except ModuleNotFoundError:
            raise UserError(
                "Hub sources need the package datasets; install it with: pip install 'curate-prm[hub]'."
            ) from None
        config = self._config
        try:
            data = datasets.load_dataset(
                self._dataset, config.config, split=config.split, revision=config.revision, streaming=True
            )
        except _failures() as error:
            raise self._failed(
                "cannot be opened", error, "check dataset, config, split, revision and the network"
            ) from None
        return _undecoded(data, datasets)

    def _records(self, data: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from data
        except _failures() as error:
            raise self._failed(
                "stopped in the middle", error, "run again when the data and the network are sound; what is in is kept"
            ) from None

    def _failed(self, what: str, error: Exception, cure: str) -> UserError:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return UserError(f'Source "{self._config.name}": {self._config.dataset} {what} ({first}); {cure}.')


def _failures() -> tuple[type[Exception], ...]:
    """What `datasets` raises for data and networks that are not there or not sound."""
    import datasets

    return ValueError, OSError, pa.ArrowException, datasets.exceptions.DatasetsError


def _undecoded(data: Any, datasets: Any) -> Any:
    """The same stream with images left as bytes: what is stored must be the original, not a re-encoding."""
    for name, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            data = data.cast_column(name, type(feature)(datasets.Image(decode=False)))
    return data
