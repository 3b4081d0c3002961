"""The one place that loads a model's parts, from a folder or the hub. Nothing that a model brings is ever run.

A model folder can bring Python files (`auto_map` in its JSON files names them), weights as pickles, which run what they
like when they are opened, and the hub id of kernels to download. All are refused, whatever a recipe says. A model with
`auto_map` whose classes transformers has itself is loaded by those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from curate.errors import UserError

# How the names of files end that `torch.load` opens.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ATTENTION = re.compile(r"[a-z0-9_]+")
# Engine arguments that name code to import, or make an engine run the model's own.
_CODE = frozenset(
    {
        "worker_cls",
        "worker_extension_cls",
        "scheduler_cls",
        "logits_processors",
        "io_processor_plugin",
        "reasoning_parser_plugin",
        "kv_connector_module_path",
    }
)
# Of vLLM's ways to read weights, those that read safetensors alone, or nothing.
_FORMATS = ("safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "mistral", "dummy")


def load(kind: Any, model: str, revision: str | None, **options: Any) -> Any:
    """`kind.from_pretrained` of a model, with its own code left alone and weights from safetensors only.

    UserError for a model that cannot be loaded so; OSError and ValueError for all else, as transformers raises them.
    """
    check(model, revision)
    try:
        return kind.from_pretrained(model, revision=revision, trust_remote_code=False, **options)
    except ValueError as error:
        if asks_for_code(error):
            raise _code_of_its_own(model) from None
        raise


def check(model: str, revision: str | None) -> None:
    """UserError when this model cannot be loaded without running what it brings; OSError when it cannot be found."""
    import transformers
    from transformers import CONFIG_MAPPING, PretrainedConfig

    pickled = _pickled(Path(model).expanduser())
    if pickled:
        raise UserError(
            f"{model} has its weights as a pickle ({pickled}), which can run any code when it is opened; convert them "
            "to safetensors first."
        )
    config, _ = PretrainedConfig.get_config_dict(model, revision=revision)
    named = config.get("architectures") or []
    known = config.get("model_type") in CONFIG_MAPPING and all(hasattr(transformers, str(name)) for name in named)
    if config.get("auto_map") and not known:
        raise _code_of_its_own(model)
    for name in ("attn_implementation", "_attn_implementation"):
        check_attention(config.get(name), f"{name} in the config.json of {model}")


def check_attention(given: Any, where: str) -> None:
    """UserError where attention is to come from the hub: such kernels are programs."""
    for name in given.values() if isinstance(given, Mapping) else [given]:
        if name is not None and not _ATTENTION.fullmatch(str(name)):
            raise UserError(f"{where} is {name!r}, a program to download; use an installed one, such as sdpa.")


def asks_for_code(error: Exception) -> bool:
    """Whether a loader refused because the model's own code would have had to run."""
    return "trust_remote_code" in str(error)


def check_arguments(given: Mapping[str, Any]) -> None:
    """UserError when arguments of vLLM would make it run a model's code, import code by name, or open pickles."""
    for name in ("model", "revision"):
        if name in given:
            raise UserError(f"Set engine.{name} in place of engine.args.{name}; it belongs to the policy.")
    for name, value in _named(given):
        if name == "trust_remote_code" and value is not False:
            raise UserError("engine.args.trust_remote_code must stay false: the code of models is never run.")
        if name in _CODE and value is not None:
            raise UserError(f"engine.args.{name} names code to run, and a recipe is data; leave it out.")
    weights = given.get("load_format", _FORMATS[0])
    if weights not in _FORMATS:
        raise UserError(
            f"engine.args.load_format is {weights!r}, which can open pickles; use one of {', '.join(_FORMATS)}."
        )


def _named(given: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield str(name), value
            yield from _named(value)
    elif isinstance(given, list | tuple):
        for value in given:
            yield from _named(value)


def _pickled(folder: Path) -> str | None:
    """The first file of weights as pickles, in a folder that has none as safetensors."""
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    return min((path.name for path in folder.iterdir() if path.suffix in _PICKLES), default=None)


def _code_of_its_own(model: str) -> UserError:
    return UserError(
        f"{model} needs its own Python code (auto_map) to load, and the code of models is never run; use a "
        "model whose classes are part of transformers."
    )
