"""Engines: what generates text. One is made from its configuration, by its name in `curate.recipe.engine_table`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from curate.engines.base import Engine, EngineMaker
from curate.errors import UserError
from curate.recipe.engine_table import AUTO, ENGINES
from curate.recipe.sections import EngineConfig

# The settings that not every engine can use; each says in `uses` which of them it does.
OPTIONAL = ("max_model_len", "max_pixels", "urls")


def _ignore(_note: str) -> None:
    """Tells nobody."""


def build(config: EngineConfig, on_note: Callable[[str], None] = _ignore) -> Engine:
    """The engine that `config.kind` names, not started yet; `on_note` gets one plain sentence for the user at a time.

    `auto` is vLLM where it is installed, else transformers. UserError for an unknown name, for wrong arguments, and for
    settings that this engine has no use for.
    """
    kind = config.kind
    if kind == AUTO:
        kind = _choose(on_note)
    make: EngineMaker = ENGINES.find(kind)
    engine = make(config, on_note)
    for name in OPTIONAL:
        if getattr(config, name) and name not in getattr(make, "uses", ()):
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
