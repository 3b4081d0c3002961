"""`workspace.json`: the version of the tables, the number of shards, and the name that every file of rows bears.

It is plain, so that it can be written again by hand; what it must say stands in the markers of the tables, too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from curate.errors import UserError
from curate.runtime.durable import unsealed

_MAX_SHARDS = 99_999


def text(version: int, shards: int, identity: str) -> str:
    """What stands in the file."""
    return json.dumps({"version": version, "shards": shards, "workspace": identity})


def read(path: Path, version: int) -> tuple[int, str]:
    """(number of shards, the workspace's name); UserError where the file is damaged or of another version."""
    try:
        content = json.loads(path.read_bytes())
        found, shards, identity = content["version"], content["shards"], content.get("workspace")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = shards = identity = None
    if isinstance(found, int) and found > version and remembered(path.parent) is None:
        raise UserError(newer(path.parent, f"files of version {found}", f"version {version}"))
    if isinstance(found, int) and found < version and (remembered(path.parent) is None or "workspace" in content):
        raise UserError(
            f"The workspace {path.parent} was written by an earlier release (files of version {found}, now {version}); "
            f"run `curate upgrade --workspace {path.parent}`."
        )
    sound = found == version and type(shards) is int and 0 < shards <= _MAX_SHARDS and isinstance(identity, str)
    now = text(version, shards, identity) if sound else None
    if now is None or _first(path.parent) not in (None, now):
        held = remembered(path.parent)
        if held is not None and held != now:
            raise UserError(
                f"{path} is damaged, or was changed: the tables of this workspace were written under another one; "
                f"put this text in its place: {held}"
            )
    if now is None:
        raise UserError(f"{path} is damaged; restore it, or choose another --workspace.")
    return shards, identity


def newer(root: Path, there: str, here: str) -> str:
    """The sentence for a workspace that a later release wrote."""
    return (
        f"The workspace {root} was written by a later release of curate-prm ({there}, this release has {here}); "
        "install that release, or choose another --workspace."
    )


def remembered(root: Path) -> str | None:
    """The text that most tables of the workspace were written under; null where there are none."""
    found = Counter(_texts(root))
    return found.most_common(1)[0][0] if found else None


def _first(root: Path) -> str | None:
    return next(_texts(root), None)


def _texts(root: Path) -> Iterator[str]:
    for marker in root.glob("tables/*/*/part-*.done"):
        try:
            record = unsealed(marker.read_bytes())
            yield text(record["tables"], record["shards"], record["workspace"])
        except (OSError, ValueError, KeyError):
            # Whoever reads the rows says what is wrong with it.
            continue
