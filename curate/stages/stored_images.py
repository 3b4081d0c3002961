"""Images by content hash, out of a workspace, in memory that does not grow with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from curate.engines.base import Image
from curate.errors import UserError
from curate.tables.id_map import IdMap
from curate.tables.schema import IMAGES
from curate.tables.store import Store, read_file

# Files of images that are kept at once, in bytes. A file holds the images of one commit and shard: problems that
# came in together are asked for together.
HELD = 256 * 2**20


class StoredImages:
    """The images of problems, read a file of the table at a time."""

    def __init__(self, workspace: Store, held: int = HELD) -> None:
        self._files = workspace.files(IMAGES)
        self._place, self._held = IdMap(), held
        for number, path in enumerate(self._files):
            self._place.add(read_file(path, IMAGES, ["image_hash"])["image_hash"].to_pylist(), number)
        self._open: OrderedDict[int, dict[str, bytes]] = OrderedDict()
        self._bytes = 0

    def of(self, hashes: Sequence[str]) -> list[Image]:
        """The images with these hashes, in order; UserError when one is not there."""
        places = self._place.near(hashes)
        return [Image(key, self._load(key, places.get(key))) for key in hashes]

    def _load(self, key: str, number: int | None) -> bytes:
        if number is None:
            raise UserError(f"Image {key} is not in the workspace; ingest its source again.")
        if number not in self._open:
            table = read_file(self._files[number], IMAGES, ["image_hash", "bytes"])
            content = dict(zip(table["image_hash"].to_pylist(), table["bytes"].to_pylist(), strict=True))
            self._open[number] = content
            self._bytes += sum(map(len, content.values()))
            while self._bytes > self._held and len(self._open) > 1:
                _, gone = self._open.popitem(last=False)
                self._bytes -= sum(map(len, gone.values()))
        self._open.move_to_end(number)
        return self._open[number][key]
