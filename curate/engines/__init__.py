"""The engines by name. A name is looked up in the table below, then among installed packages' entry points.

A package adds an engine of its own with an entry point in the group `curate.engines` whose value is a class that is
made like the ones here: `Class(config, on_note)`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from curate import installed
from curate.config import did_you_mean
from curate.engines.base import Engine
from curate.errors import UserError
from curate.sections import EngineConfig

ENTRY_POINTS = "curate.engines"

ENGINES: dict[str, str] = {
    "vllm": "curate.engines.vllm:VllmEngine",
    "server": "curate.engines.server:ServerEngine",
    "transformers": "curate.engines.transformers:TransformersEngine",
    "simulated": "curate.engines.simulated:SimulatedEngine",
    "replay": "curate.engines.replay:ReplayEngine",
}

# What each engine can use of the settings that not every engine can; engines of other packages say it themselves.
_USES: dict[str, tuple[str, ...]] = {
    "vllm": ("max_model_len", "max_pixels"),
    "server": ("urls", "max_pixels"),
    "transformers": ("max_model_len", "max_pixels"),
    "simulated": (),
    "replay": (),
}


def _ignore(_note: str) -> None:
    """Tells nobody."""


def build(config: EngineConfig, on_note: Callable[[str], None] = _ignore) -> Engine:
    """The engine that `config.kind` names, not started yet; `on_note` gets one plain sentence for the user at a time.

    `auto` is vLLM where it is installed, else transformers. UserError for an unknown name, for wrong arguments, and for
    settings that this engine has no use for.
    """
    kind = config.kind
    if kind == "auto":
        kind = _choose(on_note)
    make = _load(kind)
    engine: Engine = make(config, on_note)
    for name in ("max_model_len", "max_pixels", "urls"):
        if getattr(config, name) and kind in _USES and name not in _USES[kind]:
            raise UserError(f"engine.{name} has no effect with the engine {kind}; leave it out.")
    return engine


def _choose(on_note: Callable[[str], None]) -> str:
    # find_spec looks for the package without importing it: importing vLLM takes many seconds.
    if importlib.util.find_spec("vllm") is not None:
        on_note("Engine: vLLM, because it is installed.")
        return "vllm"
    on_note(
        "Engine: transformers, because vLLM is not installed; it gives the same kind of samples, many times slower."
    )
    return "transformers"


def known() -> dict[str, str]:
    """Every engine by name, those of installed packages too; the table here goes first."""
    outside = {point.name: point.value for point in installed.entry_points(ENTRY_POINTS)}
    return outside | ENGINES


def _load(kind: str) -> Callable[[EngineConfig, Callable[[str], None]], Any]:
    engines = known()
    if kind not in engines:
        raise UserError(f'There is no engine "{kind}"{did_you_mean(kind, ["auto", *engines])}')
    module, _, name = engines[kind].partition(":")
    made: Callable[[EngineConfig, Callable[[str], None]], Any] = getattr(importlib.import_module(module), name)
    return made
