"""Format `datasets`: a folder that `datasets.load_dataset` loads as it is, one row a rollout, images in the rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from curate.exports import columns
from curate.exports.base import CardLayout, Item, Options
from curate.exports.formats.parquet import ParquetShards

LOADING = 'from datasets import load_dataset\n\ndata = load_dataset("{folder}")'


class Datasets:
    """Parquet with the features in it, a split a role."""

    takes = frozenset[str]()

    def __init__(self, folder: Path, options: Options) -> None:
        types = {name: column.kind for name, column in columns.COLUMNS.items()}
        self._shards = ParquetShards(folder, columns.schema({**types, "images": pa.list_(columns.IMAGE)}))

    def add(self, item: Item) -> int:
        """Every rollout, with or without labels."""
        self._shards.add(item.rollout.role, {**columns.row_of(item), "images": columns.image_cells(item)})
        return len(item.steps)

    def close(self) -> CardLayout:
        """Finish the files."""
        meanings = {name: column.meaning for name, column in columns.COLUMNS.items()}
        return CardLayout(
            fields={**meanings, "images": "The images, as original bytes, in order."},
            loading=LOADING,
            data_files=self._shards.close(),
        )
