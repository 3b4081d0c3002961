"""Engines: what generates text. One is made from its configuration, by its name in `curate.recipe.engine_table`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from curate.engines.base import Engine
from curate.errors import UserError, did_you_mean
from curate.recipe.engine_table import known
from curate.recipe.sections import EngineConfig

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


def _load(kind: str) -> Callable[[EngineConfig, Callable[[str], None]], Any]:
    engines = known()
    if kind not in engines:
        raise UserError(f'There is no engine "{kind}"{did_you_mean(kind, ["auto", *engines])}')
    module, _, name = engines[kind].partition(":")
    made: Callable[[EngineConfig, Callable[[str], None]], Any] = getattr(importlib.import_module(module), name)
    return made
