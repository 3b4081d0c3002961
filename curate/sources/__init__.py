"""Where problems come from: one adapter per kind of source."""

from __future__ import annotations

from pathlib import Path

from curate.sections import FilesSource, HubSource, SyntheticSource
from curate.sources.base import Source


def open_source(config: SyntheticSource | FilesSource | HubSource, base: Path) -> Source:
    """The adapter for a source's configuration; relative paths are relative to `base`."""
    if isinstance(config, SyntheticSource):
        from curate.sources.synthetic import Synthetic

        return Synthetic(config)
    if isinstance(config, FilesSource):
        from curate.sources.files import Files

        return Files(config, base)
    from curate.sources.hub import Hub

    return Hub(config, base)
