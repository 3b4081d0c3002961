"""Where problems come from: one adapter per kind of source.

A package adds one of its own with an entry point in the group `curate.sources` whose value is a class that is made like
the ones here, `Class(config, base)`, with `rows()` (see `base.Source`); recipes name it in a source of kind `package`.
"""

from __future__ import annotations

from pathlib import Path

from curate.errors import UserError, did_you_mean
from curate.recipe.source_sections import DreamPrmSource, FilesSource, HubSource, PackageSource, SyntheticSource
from curate.runtime import installed
from curate.sources.base import Source

ENTRY_POINTS = "curate.sources"


def open_source(
    config: SyntheticSource | FilesSource | HubSource | DreamPrmSource | PackageSource, base: Path
) -> Source:
    """The adapter for a source's configuration; relative paths are relative to `base`."""
    if isinstance(config, SyntheticSource):
        from curate.sources.synthetic import Synthetic

        return Synthetic(config)
    if isinstance(config, FilesSource):
        from curate.sources.files import FileReader

        return FileReader(config, base)
    if isinstance(config, HubSource):
        from curate.sources.hub import HubReader

        return HubReader(config, base)
    if isinstance(config, DreamPrmSource):
        from curate.sources.dreamprm import DreamPrmReader

        return DreamPrmReader(config, base)
    return _outside(config, base)


def _outside(config: PackageSource, base: Path) -> Source:
    points = {point.name: point for point in installed.entry_points(ENTRY_POINTS)}
    if config.adapter not in points:
        cure = did_you_mean(config.adapter, list(points)) if points else "; no installed package brings one"
        raise UserError(f'Source "{config.name}": there is no adapter "{config.adapter}"{cure}.')
    made: Source = points[config.adapter].load()(config, base)
    return made
