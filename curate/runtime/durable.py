"""What durable files share: records that notice a changed byte, and the sentence for a file that cannot be written."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Where a sealed record keeps the checksum of all its other parts.
SEAL = "seal"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> str:
    """The sentence for a file that cannot be written."""
    return (
        f"{path} cannot be written ({error.strerror}); free some space, or choose another --workspace, and run again."
    )


def _checksum(record: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in record.items() if name != SEAL}
    return f"{zlib.crc32(json.dumps(plain, sort_keys=True, allow_nan=False).encode()):08x}"


def sealed(record: Mapping[str, Any]) -> bytes:
    """A JSON object with a checksum of it, `seal`, as one more part."""
    # Through JSON first: the checksum is of what a reader gets, where tuples are lists.
    plain: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
    return json.dumps(plain | {SEAL: _checksum(plain)}, indent=1, sort_keys=True).encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """The record of `sealed`, without its seal; ValueError where it is not as it was written."""
    record = json.loads(data)
    if not isinstance(record, dict) or record.pop(SEAL, None) != _checksum(record):
        raise ValueError("the record is not as it was written")
    return record
