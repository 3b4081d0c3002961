"""How recipes are read: YAML by safe load, overrides, and one clear sentence for whatever is wrong.

Unknown keys are refused with the nearest known key. What the sections hold is in `curate.recipe.sections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from curate.errors import UserError, did_you_mean
from curate.recipe import variants
from curate.recipe.variants import SHOWN, SettingPlace
from curate.runtime import plain_yaml

T = TypeVar("T", bound="Config")


class Config(BaseModel):
    """Base of every section: frozen, no unknown keys, documented field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Variant(Config):
    """Base of the members of a union by a key (`curate.recipe.variants.OneOf`): each has only what it can use."""

    stored: ClassVar[Mapping[str, Any]] = {}
    """Keys that some members lack, with the values that are stored for these members all the same: workspaces and
    resolved recipes have them, from before there were members. Where they are read, such values are passed over."""
    silent: ClassVar[Mapping[str, Any]] = {}
    """Keys that some members lack, with values that ask for nothing, such as 0 null runs: they are passed over, too."""

    @model_validator(mode="before")
    @classmethod
    def _pass_over(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        nothing = {key: value for key, value in {**cls.stored, **cls.silent}.items() if key not in cls.model_fields}
        return {key: value for key, value in given.items() if key not in nothing or not _same(value, nothing[key])}

    @model_serializer(mode="wrap")
    def _with_stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {**self.stored, **dumped}


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


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
        raise UserError(f"--set {path[:SHOWN]}: the value {error}; quote it if it is a text.") from None
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


def read_small(path: Path, max_bytes: int) -> bytes:
    """The first so many bytes of a file; OSError when it cannot be read, or is a folder, a pipe or a device."""
    if path.exists() and not path.is_file():
        # A pipe or a device would be read for ever.
        raise OSError(f"{path} is no file")
    with path.open("rb") as file:
        return file.read(max_bytes)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file, which is data alone (`curate.runtime.plain_yaml`).

    UserError, with the place in the file, for anything else.
    """
    try:
        tree = plain_yaml.parse(read_small(path, plain_yaml.MAX_BYTES + 1))
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


@overload
def validate(kind: type[T], tree: Any, where: str, holder: str = ...) -> T: ...
@overload
def validate(kind: Any, tree: Any, where: str, holder: str = ...) -> Any: ...
def validate(kind: Any, tree: Any, where: str, holder: str = "the recipe") -> Any:
    """Check `tree` as a section of type `kind`, a class or a union of them.

    UserError that names the key, what is wrong, and the nearest known key, or the mode that a key belongs to.
    """
    try:
        return _adapter(kind).validate_python(tree)
    except ValidationError as error:
        raise UserError(_explain(kind, error, where, holder)) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _explain(kind: Any, error: ValidationError, where: str, holder: str) -> str:
    first, *further = error.errors()
    # What holds a wrong part is wrong as well.
    more = sum(first["loc"][: len(each["loc"])] != each["loc"] for each in further)
    place = variants.find(kind, first["loc"])
    name, others = ".".join([where, *place.keys]), f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        if (owned := variants.owners(place)) is not None:
            fork, tags = owned
            return (
                f'"{name}" in {holder} has no effect with {fork.tag}: it belongs to {_either(fork.one_of.key, tags)}; '
                f"leave it out{others}."
            )
        return f'Unknown key "{name}" in {holder}{did_you_mean(place.keys[-1], fields(place.holders))}{others}'
    if first["type"] == "literal_error" and (owned := variants.owners(place, (first["input"],))) is not None:
        fork, tags = owned
        return (
            f'"{name}" in {holder} cannot be {str(first["input"])[:SHOWN]} with {fork.tag}: that belongs to '
            f"{_either(fork.one_of.key, tags)}{others}."
        )
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"{_choice(place, first.get('ctx', {}).get('tag'), name, holder)}{others}"
    if first["type"] == "model_type":
        return f'"{name}" in {holder}: Input should be a mapping of keys{others}.'
    said = first["msg"].removeprefix("Value error, ") + others
    return f'"{name}" in {holder}: {said}{"" if said.endswith("?") else "."}'


def _either(key: str, tags: Sequence[str]) -> str:
    """Join the tags of one key: "mode exact, hard or legacy"."""
    *others, last = (tag.removeprefix(f"{key} ") for tag in tags)
    return f"{key} {', '.join(others)} or {last}" if others else f"{key} {last}"


def _choice(place: SettingPlace, tag: str | None, name: str, holder: str) -> str:
    """Say that a key which chooses a member of a union is missing, or has a value that there is not."""
    one_of, union = next(found for kind in place.types for found in variants.unions(kind))
    known = [each.removeprefix(f"{one_of.key} ") for each in variants.tags(union, one_of)]
    if tag is None:
        return f'"{name}.{one_of.key}" is missing in {holder}; known: {", ".join(sorted(known))}'
    given = tag.removeprefix(f"{one_of.key} ")
    return f'"{name}.{one_of.key}" in {holder}: there is no {one_of.key} "{given}"{did_you_mean(given, known)}'


def fields(kinds: Sequence[Any]) -> list[str]:
    """Names of the fields of all sections that these annotations are made of."""
    return sorted({name for kind in kinds for model in variants.models(kind) for name in model.model_fields})
