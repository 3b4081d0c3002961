"""The engines by name: those of this package, and those that installed packages add.

A package adds an engine of its own with an entry point in the group `curate.engines` whose value is a class that is
made like the ones here: `Class(config, on_note)`.
"""

from __future__ import annotations

from curate.runtime import installed

ENTRY_POINTS = "curate.engines"

ENGINES: dict[str, str] = {
    "vllm": "curate.engines.vllm:VllmEngine",
    "server": "curate.engines.server.client:ServerEngine",
    "transformers": "curate.engines.transformers:TransformersEngine",
    "simulated": "curate.engines.simulated:SimulatedEngine",
    "replay": "curate.engines.replay:ReplayEngine",
}


def known() -> dict[str, str]:
    """Every engine by name, those of installed packages too; the table here goes first."""
    outside = {point.name: point.value for point in installed.entry_points(ENTRY_POINTS)}
    return outside | ENGINES
