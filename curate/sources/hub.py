"""Source: a dataset on the Hugging Face hub, or a folder that `datasets` can load, read as a stream."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate import hubs
from curate.errors import UserError
from curate.source_sections import HubSource
from curate.sources import columns
from curate.sources.base import BadRow, SourceRow
from curate.sources.columns import Numbered
from curate.sources.roots import Root, open_root


class Hub:
    """Rows of one split; pictures as their original bytes. A local folder's image paths stay inside the folder."""

    def __init__(self, config: HubSource, base: Path) -> None:
        self._config = config
        self._base = base
        self.read_from: dict[str, str] = {}
        self.root: Root | None = None
        if config.root is not None:
            at = config.root if config.root.is_absolute() else base / config.root
            if not at.exists():
                raise UserError(f'Source "{config.name}": there is no folder or archive at {config.root}; check root.')
            self.root = open_root(at)

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows, in the order of the dataset."""
        records = self.records()
        yield from columns.problems(records, self._config, self.root)

    def records(self) -> Iterator[Numbered]:
        """The records as they are, checked for the columns that are named; `root` is known when this returns."""
        data, name = self._open()
        what = f'Source "{self._config.name}": {name}'
        if data.column_names is not None:
            columns.check(self._config, data.column_names, what)
        # Without named columns the first record has to be asked.
        records = enumerate(self._records(data), start=1)
        ahead = list(itertools.islice(records, 1))
        for _, record in ahead:
            columns.check(self._config, record, what)
        return itertools.chain(ahead, records)

    def unchecked(self) -> Iterator[Numbered]:
        """The records as they are, whatever columns are named."""
        return enumerate(self._records(self._open()[0]), start=1)

    def _open(self) -> tuple[Any, str]:
        """The stream and the id that it came from: the first of the ids that can be opened."""
        datasets = library()
        config, first = self._config, None
        for name in (config.dataset, *config.fallbacks):
            local = self._base / name
            try:
                builder = datasets.load_dataset_builder(
                    str(local) if local.is_dir() else name, config.config, revision=config.revision
                )
                data = builder.as_streaming_dataset(split=config.split)
            except failures() as error:
                first = first or error
                continue
            self.read_from = place_of(builder)
            if local.is_dir() and self.root is None:
                self.root = open_root(local)
            return _undecoded(data, datasets), name
        assert first is not None  # noqa: S101
        raise self._failed("cannot be opened", first, "check dataset, config, split, revision and the network")

    def _records(self, data: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from data
        except failures() as error:
            raise self._failed(
                "stopped in the middle", error, "run again when the data and the network are sound; what is in is kept"
            ) from None

    def _failed(self, what: str, error: Exception, cure: str) -> UserError:
        name = self._config.name
        return UserError(f'Source "{name}": {self._config.dataset} {what} ({hubs.reason(error)}); {cure}.')


def library() -> Any:
    """The package `datasets`; UserError when it is not installed."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(
            "Hub sources need the package datasets; install it with: pip install 'curate-prm[hub]'."
        ) from None
    return datasets


def failures() -> tuple[type[Exception], ...]:
    """What `datasets` raises for data and networks that are not there or not sound."""
    import datasets

    return *hubs.failures(), pa.ArrowException, datasets.exceptions.DatasetsError


def place_of(builder: Any) -> dict[str, str]:
    """`dataset`, the id on the hub that a builder of `datasets` reads, and `revision`, its commit; none of a folder."""
    match = re.match(r"hf://datasets/([^@]+)@([0-9a-f]{40})", builder.base_path or "")
    return {} if match is None else {"dataset": match[1], "revision": match[2]}


def _undecoded(data: Any, datasets: Any) -> Any:
    """The same stream with images left as bytes: what is stored must be the original, not a re-encoding."""
    for name, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            data = data.cast_column(name, type(feature)(datasets.Image(decode=False)))
    return data
