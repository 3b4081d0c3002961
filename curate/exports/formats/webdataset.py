"""Format `webdataset`: tar shards with `<key>.json` and the key's images, byte for byte the same each time.

The rules of names are those of `webdataset` (tariterators.py) and of `datasets` (packaged_modules/webdataset): the key
is what stands before the first dot of a name, the field what stands behind it, and members of a key follow one another.
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pyarrow as pa

from curate.exports import columns
from curate.exports.base import CardLayout, Item, Options
from curate.exports.formats.hub import LOADING
from curate.exports.formats.texts import encoded
from curate.seeds import digest

SHARD_BYTES = 384 * 2**20


def key_of(rollout_id: str) -> str:
    """A rollout's key: a name without dots, paths and white space."""
    return rollout_id if re.fullmatch(r"[A-Za-z0-9_-]+", rollout_id) else digest(rollout_id)


class _TarShards:
    """The tar files of one split."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._tar: tarfile.TarFile | None = None
        self._count = self._size = 0

    def add(self, members: list[tuple[str, bytes]]) -> None:
        """The members of one key."""
        if self._tar is None:
            path = self._folder / f"{self._split}-{self._count:06d}.tar"
            # As it is in the standard: names of any length and script, no clock and no user in them.
            self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            self._count, self._size = self._count + 1, 0
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), 0, 0o644
            self._tar.addfile(entry, io.BytesIO(data))
            self._size += len(data)
        if self._size >= self._shard_bytes:
            self.close()

    def close(self) -> None:
        """End the file under way."""
        if self._tar is not None:
            self._tar.close()
        self._tar = None


class WebDataset:
    """A series of shards a role."""

    takes = frozenset[str]()

    def __init__(self, folder: Path, options: Options, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder / "data", shard_bytes
        self._splits: dict[str, _TarShards] = {}
        self._endings: set[str] = set()

    def add(self, item: Item) -> int:
        """Every rollout, with or without labels."""
        split, key = item.rollout.role, key_of(item.rollout.rollout_id)
        if split not in self._splits:
            self._folder.mkdir(exist_ok=True)
            self._splits[split] = _TarShards(self._folder, split, self._shard_bytes)
        single = len(item.images) == 1
        endings = [each.ending if single else f"{place}.{each.ending}" for place, each in enumerate(item.images)]
        row = columns.row_of(item) | {"images": [image.image_hash for image in item.images]}
        images = [(f"{key}.{end}", each.data) for end, each in zip(endings, item.images, strict=True)]
        self._splits[split].add([(f"{key}.json", encoded(row)), *images])
        self._endings |= set(endings)
        return len(item.steps)

    def close(self) -> CardLayout:
        """Finish the files."""
        for split in self._splits.values():
            split.close()
        types = {name: column.kind for name, column in columns.COLUMNS.items()} | {"images": pa.list_(pa.string())}
        members = {"json": pa.struct(types.items()), **dict.fromkeys(sorted(self._endings), columns.IMAGE)}
        meanings = {name: column.meaning for name, column in columns.COLUMNS.items()}
        return CardLayout(
            fields={**meanings, "images": "Content hashes of the images, in the order of their members."},
            loading=LOADING,
            notes=(
                "A sample is `<key>.json` with these fields, and its images as original bytes: `<key>.png` (or "
                "another ending) for one, `<key>.0.png`, `<key>.1.png`, ... for several.",
                '`load_dataset("webdataset", data_files=...)` guesses types from the first five samples; the folder, '
                "or `features=` as in the head of this card, gives them.",
            ),
            data_files={name: f"data/{name}-*.tar" for name in sorted(self._splits)},
            features=columns.features(members),
        )
