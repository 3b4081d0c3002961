"""The engines by name: those of this project, and those that installed packages add.

A package adds an engine of its own with an entry point in the group `curate.engines` whose value is a class that is
made like the ones here, `Class(config, on_note)`, see `curate.engines.base.EngineMaker`.
"""

from __future__ import annotations

from typing import Any

from curate.runtime.registry import Registry

# Stands for vLLM where it is installed, else for transformers.
AUTO = "auto"

ENGINES: Registry[Any] = Registry(
    "curate.engines",
    "engine",
    {
        "vllm": "curate.engines.vllm:VllmEngine",
        "server": "curate.engines.server.client:ServerEngine",
        "transformers": "curate.engines.transformers:TransformersEngine",
        "simulated": "curate.engines.simulated:SimulatedEngine",
        "replay": "curate.engines.replay:ReplayEngine",
    },
)
