"""How recipes are read: YAML by safe load, overrides, and one clear sentence for whatever is wrong.

Unknown keys are refused with the nearest known key. What the sections hold is in `curate.recipe.sections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from curate.errors import UserError, did_you_mean
from curate.runtime import plain_yaml

T = TypeVar("T", bound="Config")
# Characters of a user's word in a sentence.
_SHOWN = 100


class Config(BaseModel):
    """Base of every section: frozen, no unknown keys, documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _set(tree: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f'--set takes key.path=value, not "{assignment}".')
    node: Any = tree
    for key in keys[:-1]:
        node = _below(node, key, assignment)
        if not isinstance(node, dict | list):
            raise UserError(f'--set {assignment}: "{key}" is a plain value in the recipe and has no keys below it.')
    try:
        value = plain_yaml.parse(text.encode(errors="surrogatepass"))
    except plain_yaml.Unreadable as error:
        raise UserError(f"--set {path[:_SHOWN]}: the value {error}; quote it if it is a text.") from None
    if isinstance(node, list):
        _below(node, keys[-1], assignment)
        node[int(keys[-1])] = value
    else:
        node[keys[-1]] = value


def _below(node: Any, key: str, assignment: str) -> Any:
    """What stands at `key` of a mapping or at index `key` of a list."""
    if isinstance(node, dict):
        below = node.setdefault(key, {})
    elif key.isdigit() and int(key) < len(node):
        below = node[int(key)]
    else:
        raise UserError(f'--set {assignment}: "{key}" is not an index of a list of {len(node)}.')
    return below


def apply_settings(tree: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The tree with each `key.path=value` applied; list items by index, values read as YAML."""
    for assignment in settings:
        _set(tree, assignment)
    return tree


def read_small(path: Path, most: int) -> bytes:
    """The first so many bytes of a file; OSError when it cannot be read, or is a folder, a pipe or a device."""
    if path.exists() and not path.is_file():
        # A pipe or a device would be read for ever.
        raise OSError(f"{path} is no file")
    with path.open("rb") as file:
        return file.read(most)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file, which is data alone (`curate.runtime.plain_yaml`).

    UserError, with the place in the file, for anything else.
    """
    try:
        tree = plain_yaml.parse(read_small(path, plain_yaml.MOST_BYTES + 1))
    except FileNotFoundError:
        raise UserError(f"There is no recipe at {path}; check the path.") from None
    except plain_yaml.Unreadable as error:
        raise UserError(f"The recipe {path} {error}.") from None
    except (OSError, ValueError) as error:
        # ValueError: a path with a zero byte.
        raise UserError(f"The recipe {path} cannot be read: {error}.") from None
    if not isinstance(tree, dict):
        raise UserError(f"The recipe {path} must be a mapping of sections; recipes/runs/demo.yaml is an example.")
    return tree


def validate(kind: type[T], tree: Any, where: str, holder: str = "the recipe") -> T:
    """`tree` as a section of type `kind`; UserError that names the key, what is wrong, and the nearest known key."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(kind, error, where, holder)) from None


def _explain(kind: type[Config], error: ValidationError, where: str, holder: str) -> str:
    first = error.errors()[0]
    place = ".".join([where, *(str(part)[:_SHOWN] for part in first["loc"])])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = did_you_mean(str(first["loc"][-1]), _fields(kind, first["loc"]))
        return f'Unknown key "{place}" in {holder}{known}{more}'
    said = first["msg"].removeprefix("Value error, ") + more
    return f'"{place}" in {holder}: {said}{"" if said.endswith("?") else "."}'


def _fields(kind: Any, location: Sequence[int | str]) -> list[str]:
    """Field names of the model that holds the last part of `location`."""

    def models(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [model for part in get_args(annotation) for model in models(part)]

    current: list[type[BaseModel]] = [kind]
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        below = [m for model in current for m in models(getattr(model.model_fields.get(part), "annotation", None))]
        tagged = [m for m in current if part in get_args(getattr(m.model_fields.get("kind"), "annotation", None))]
        current = below or tagged or current
    return sorted({name for model in current for name in model.model_fields})
