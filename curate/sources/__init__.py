"""Where problems come from: one adapter per kind of source, see `curate.recipe.source_table`."""

from __future__ import annotations

from pathlib import Path

from curate.recipe.source_sections import DreamPrmSource, FilesSource, HubSource, PackageSource, SyntheticSource
from curate.recipe.source_table import SOURCES
from curate.sources.base import Source


def open_source(
    config: SyntheticSource | FilesSource | HubSource | DreamPrmSource | PackageSource, base: Path
) -> Source:
    """The adapter for a source's configuration; relative paths are relative to `base`."""
    made: Source = SOURCES.find(config.adapter if isinstance(config, PackageSource) else config.kind)(config, base)
    return made
