"""A package that is installed while a test runs: real entry points of real metadata, in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from curate.runtime import installed


@contextmanager
def installed_package(
    folder: Path, files: Mapping[str, str], points: Mapping[str, Mapping[str, str]], name: str = "other"
) -> Iterator[None]:
    """The package `name` with these modules (file name -> text) and entry points (group -> name -> where it is)."""
    about = folder / f"{name}-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    groups = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in each.items()) for group, each in points.items())
    (about / "entry_points.txt").write_text("\n".join(groups))
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    _look_again()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _look_again()
        for module in [key for key, each in sys.modules.items() if _lies_in(each, folder)]:
            del sys.modules[module]


def _look_again() -> None:
    """Packages came or went, which the product looks up once a process."""
    installed._all.cache_clear()
    installed.entry_points.cache_clear()


def _lies_in(module: object, folder: Path) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(f"{folder}/")
