"""A committed file of rows written anew in its place: with fewer rows, or with other columns.

The new file and its marker are written beside the old ones and renamed into their places: a crash leaves the old file,
the new one, or (between the two renames) one that every reader refuses as damaged until `finish` was called, which the
same command does when it is run again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curate.tables import marks
from curate.tables.rows import Row
from curate.tables.store import Partition, Writer

_ANEW = ".anew"


def rewrite(partition: Partition, path: Path, rows: Iterable[Row], settings: str | None) -> None:
    """Put these rows, of which there is at least one, in place of those of a file, atomically.

    `settings` is the digest of the settings that they were made with, null where they had none.
    """
    anew = _Anew(partition, path, settings)
    anew.clear()
    Writer(anew).commit(int(path.name[5:10]), rows)
    (written,) = anew.folder.glob("part-*.parquet")
    written.rename(path)
    finish(partition)


def finish(partition: Partition) -> None:
    """End what a kill left: a file that has its new rows gets its new marker; one that has not stays as it is."""
    anew = partition.folder / _ANEW
    for folder in anew.glob("part-*") if anew.is_dir() else ():
        for marker in folder.glob(f"part-*{marks.ENDING}"):
            if not marker.with_suffix(".parquet").exists():
                marker.replace(partition.folder / f"{folder.name}{marks.ENDING}")
    shutil.rmtree(anew, ignore_errors=True)


class _Anew(Partition):
    """Where a file of a partition is written anew, before it is renamed into its place; its marker is of that place."""

    def __init__(self, of: Partition, target: Path, settings: str | None) -> None:
        super().__init__(of.folder / _ANEW / target.stem, of.table, of.shards, of.workspace)
        self._of, self._target, self._settings = of, target, settings

    def mark(self, _path: Path) -> dict[str, Any]:
        """Marker of the file that it is to be."""
        return self._of.mark(self._target)

    def settings(self) -> str | None:
        """Settings of the rows that it gets."""
        return self._settings
