"""Describe the keys of a section of a recipe in Markdown tables, from the pydantic classes that check it.

A section may be a union of variants that one key tells apart (`label.mode`), and a variant a union by another key. Keys
that all variants have come first, then those that several share, then each variant's own.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from curate.recipe.parsing import Config

PLAIN = {str: "text", int: "whole number", float: "number", Path: "path", Any: "any value"}
PLURAL = {str: "texts", int: "whole numbers", float: "numbers", Path: "paths"}
# So many keys that several variants share get a table of their own; fewer are repeated in each variant's.
SHARED = 4
HEAD = "| key | value | default | what it does |\n|---|---|---|---|\n"

Model: TypeAlias = type[BaseModel]


@dataclass(frozen=True)
class Choice:
    """A union whose members the values of `key` tell apart; `default` is the value that is taken without the key."""

    key: str
    default: str
    members: tuple[Model | Choice, ...]


@dataclass(frozen=True)
class Key:
    """Describes one key of a recipe: a row of a table."""

    name: str
    value: str
    default: str
    text: str
    # The annotation of a list, whose items have tables of their own.
    items: Any = None

    def row(self) -> str:
        """The row in Markdown."""
        return f"| `{self.name}` | {self.value} | {self.default} | {self.text} |\n"


def keys(annotation: Any) -> list[Key]:
    """Every key of a section, those of all its variants and of the items of its lists, too."""
    own = [key for kind in leaves(tree(annotation)) for key in _keys(kind)]
    return [*own, *(key for each in own if each.items is not None for key in keys(each.items))]


def section(heading: str, introduction: str, annotation: Any, path: str = "", level: int = 2) -> Iterator[str]:
    """The tables of one section under a heading; `path` stands before its keys on the command line."""
    node, lists = tree(annotation), list[Key]()
    yield f"\n{'#' * level} {heading}\n\n{introduction}{_about(leaves(node))}"
    if isinstance(node, Choice):
        yield from _variants(node, level + 1, lists)
    else:
        yield _table(_keys(node), lists)
    for key in lists:
        yield from section(f"Items of `{path}{key.name}`", "", key.items, f"{path}{key.name}.0.", level + 1)


def tree(annotation: Any, metadata: Sequence[Any] = ()) -> Model | Choice | None:
    """The classes that an annotation names: one, a choice of several, or none."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if origin is Annotated:
        return tree(inside[0], inside[1:])
    if origin in (tuple, list):
        return tree(inside[0])
    if origin not in (Union, types.UnionType):
        return None
    members = tuple(each for part in inside if (each := tree(part)) is not None)
    if len(members) < 2:
        return members[0] if members else None
    key = _key(members, metadata)
    return Choice(key, _default_of(annotation, metadata, key), members)


def leaves(node: Model | Choice | None) -> list[Model]:
    """The classes below a choice."""
    if isinstance(node, Choice):
        return [kind for member in node.members for kind in leaves(member)]
    return [] if node is None else [node]


def _key(members: Sequence[Model | Choice], metadata: Sequence[Any]) -> str:
    """The key that tells members apart: the one that a mark of the union names, else the first that can."""
    for mark in metadata:
        named = getattr(mark, "key", None) or getattr(mark, "discriminator", None)
        if isinstance(named, str):
            return named
    for name in leaves(members[0])[0].model_fields:
        values = [value for member in members for value in _values(member, name)]
        if len(values) == len(set(values)) and all(_values(member, name) for member in members):
            return name
    raise ValueError(f"no key tells {members} apart")


def _default_of(union: Any, metadata: Sequence[Any], key: str) -> str:
    """The value that is taken without the key: as a mark of the union says, else as the validation does."""
    for mark in metadata:
        if getattr(mark, "key", None) == key:
            return _shown(mark.default)
    try:
        chosen = getattr(TypeAdapter(Annotated[union, *metadata] if metadata else union).validate_python({}), key)
    except ValidationError as error:
        first = error.errors()[0]
        chosen = ... if first["type"] == "union_tag_not_found" or not first["loc"] else first["loc"][0]
    return _shown(chosen)


def _values(node: Model | Choice, name: str) -> list[Any]:
    """The values of a key that choose a member."""
    found = []
    for kind in leaves(node):
        field = kind.model_fields.get(name)
        found += get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()
    return list(dict.fromkeys(found))


def _variants(choice: Choice, level: int, lists: list[Key]) -> Iterator[str]:
    held = _held(choice)
    every = frozenset(leaves(choice))
    yield _table([key for key, kinds in held.items() if kinds == every], lists)
    groups: dict[frozenset[Model], list[Key]] = {}
    for key, kinds in held.items():
        groups.setdefault(kinds, []).append(key)
    shared = [kinds for kinds, found in groups.items() if 1 < len(kinds) < len(every) and len(found) >= SHARED]
    for kinds in shared:
        yield f"\n{'#' * level} With {_when(choice, kinds)}\n\n{_table(groups[kinds], lists)}"
    for kind in leaves(choice):
        yield f"\n{'#' * level} With {_when(choice, frozenset([kind]))}\n\n{_doc(kind)}\n"
        own = [key for key, kinds in held.items() if kind in kinds and kinds != every and kinds not in shared]
        yield f"\n{_table(own, lists)}" if own else ""


def _held(choice: Choice, given: Any = None) -> dict[Key, frozenset[Model]]:
    """Each key with the classes that have it: the keys of the choices first, then the others as they come."""
    found = {_of_choice(each, given): frozenset(leaves(each)) for each in _choices(choice)}
    holders: dict[Key, list[Model]] = {}
    for kind in leaves(choice):
        deciding = {each.key for each in _choices(choice) if kind in leaves(each)}
        for key in _keys(kind, given=given):
            if key.name not in deciding:
                holders.setdefault(key, []).append(kind)
    return found | {key: frozenset(kinds) for key, kinds in holders.items()}


def _choices(node: Model | Choice) -> Iterator[Choice]:
    if isinstance(node, Choice):
        yield node
        for member in node.members:
            yield from _choices(member)


def _of_choice(choice: Choice, given: Any) -> Key:
    """The key that decides: its values are those of all members, and it does what any of them says."""
    default = _shown(getattr(given, choice.key)) if hasattr(given, choice.key) else choice.default
    values: dict[str, list[str]] = {}
    for kind in leaves(choice):
        text = _cell(kind.model_fields[choice.key].description or "")
        values.setdefault(text, []).extend(_plain(_values(kind, choice.key)))
    values.pop("", None)
    # A text that names its values itself needs no name before it, nor does the only one.
    named = len(values) > 1
    said = " ".join(
        f"{_or(list(dict.fromkeys(names)))}: {text}" if named and not text.startswith("`") else text
        for text, names in values.items()
    )
    return Key(choice.key, _or(_plain(_values(choice, choice.key))), default, said)


def _when(choice: Choice, held: frozenset[Model], prefix: str = "") -> str:
    """In which case a recipe is about these classes: by the innermost choice that decides it."""
    hit = [member for member in choice.members if held & frozenset(leaves(member))]
    if len(hit) == 1 and isinstance(hit[0], Choice) and not frozenset(leaves(hit[0])) <= held:
        return _when(hit[0], held, prefix)
    chosen = _plain([value for member in hit for value in _values(member, choice.key)])
    if len(chosen) == 1:
        return f"`{prefix}{choice.key}: {chosen[0]}`"
    return f"`{prefix}{choice.key}` {_or(chosen)}"


def _table(found: Iterable[Key], lists: list[Key]) -> str:
    found = list(found)
    lists += [key for key in found if key.items is not None and key not in lists]
    return "".join([HEAD, *(key.row() for key in found)])


def _keys(kind: Model, prefix: str = "", given: Any = None) -> list[Key]:
    """The keys of one class, with those below them; defaults are those of `given`, where it is an instance."""
    found: list[Key] = []
    for name, field in kind.model_fields.items():
        known = type(given).model_fields if isinstance(given, BaseModel) else {}
        held = name in known and known[name].annotation == field.annotation
        default = getattr(given, name) if held else _default(field)
        found += _field(f"{prefix}{name}", field, default)
    return found


def _field(name: str, field: FieldInfo, default: Any) -> list[Key]:
    annotation = Annotated[field.annotation, *_marks(field)] if _marks(field) else field.annotation
    below = tree(annotation)
    text = _cell(field.description or (_doc(below) if isinstance(below, type) else ""))
    if below is None:
        return [Key(name, _cell(words(field.annotation, field.metadata)), _shown(default), text)]
    if get_origin(field.annotation) in (tuple, list):
        return [Key(name, "list of mappings (see below)", _shown(default), text, annotation)]
    optional = " or `null`" if type(None) in get_args(field.annotation) else ""
    head = Key(name, f"mapping (next rows){optional}", _shown(default), text)
    if not isinstance(below, Choice):
        return [head, *_keys(below, f"{name}.", default)]
    rows, every = [head], frozenset(leaves(below))
    for key, kinds in _held(below, default).items():
        only = "" if kinds == every else f"Only with {_when(below, kinds, f'{name}.')}. "
        rows.append(replace(key, name=f"{name}.{key.name}", text=only + key.text))
    return rows


def _marks(field: FieldInfo) -> list[Any]:
    """What a field says of its annotation, a discriminator too."""
    return [*field.metadata, *([field] if field.discriminator else [])]


def words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a value may be, in plain words; empty for what no YAML file can hold."""
    return _listed([part for part in dict.fromkeys(_alternatives(annotation, metadata)) if part])


def _alternatives(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _alternatives(inside[0], [*inside[1:], *metadata])
    elif origin in (Union, types.UnionType):
        for part in sorted(inside, key=lambda part: part is type(None)):
            yield from _alternatives(part, metadata)
    elif annotation is type(None):
        yield "`null`"
    elif annotation is bool:
        yield from ("`true`", "`false`")
    elif origin is Literal:
        yield from (f"`{value}`" for value in _plain(inside))
    elif origin in (tuple, list):
        yield _list_words(inside) + _bounds(metadata)
    elif origin is dict:
        yield f"mapping from {words(inside[0])} to {words(inside[1])}"
    elif names := _names(metadata):
        yield from (*(f"`{name}`" for name in names), "a name that an installed package adds")
    elif annotation in PLAIN:
        yield PLAIN[annotation] + _bounds(metadata)


def _names(metadata: Sequence[Any]) -> list[str]:
    """The names of the table whose method checks a value, where one does."""
    tables = [getattr(getattr(each, "func", None), "__self__", None) for each in metadata]
    return [name for table in tables for name in getattr(table, "own", ())]


def _list_words(inside: tuple[Any, ...]) -> str:
    if Ellipsis not in inside and len(inside) > 1:
        return f"list of {len(inside)} {PLURAL[inside[0]]}"
    if get_origin(inside[0]) in (Union, types.UnionType):
        # What such a list may hold stands beside it.
        return "list"
    return f"list of {PLURAL.get(inside[0]) or words(inside[0])}"


def _bounds(metadata: Sequence[Any]) -> str:
    flat = [each for one in metadata for each in (one.metadata if isinstance(one, FieldInfo) else [one])]
    limits = {name: getattr(one, name) for one in flat for name in ("ge", "gt", "le", "lt") if hasattr(one, name)}
    if any(getattr(one, "min_length", None) for one in flat):
        return " (not empty)"
    if {"ge", "le"} <= limits.keys():
        return f" (from {limits['ge']} to {limits['le']})"
    said = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    told = [f"{said[name]} {limits[name]}" for name in said if name in limits]
    return f" ({' and '.join(told)})" if told else ""


def _or(values: Sequence[Any]) -> str:
    return _listed([f"`{value}`" for value in values])


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} or {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _plain(values: Iterable[Any]) -> list[str]:
    """Values as a recipe has them: true, false, null, and others as they are."""
    words = {True: "true", False: "false", None: "null"}
    return [words[value] if value is None or isinstance(value, bool) else str(value) for value in values]


def _default(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True)


def _shown(value: Any) -> str:
    """A default as it would stand in a recipe."""
    if value is ...:
        return "required"
    plain = {} if isinstance(value, BaseModel) else [*value] if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1000)
    return f"`{_cell(text.removesuffix('...').removesuffix(chr(10)).removesuffix('...').strip())}`"


def _about(kinds: Sequence[Model]) -> str:
    """What a section is: the docstring of its class, or of the one that all its variants build on."""
    shared = [base for base in kinds[0].__mro__ if all(issubclass(kind, base) for kind in kinds)]
    said = next((base for base in shared if base.__doc__ and issubclass(base, Config) and base is not Config), None)
    return f"{_doc(said)}\n\n" if said is not None else ""


def _doc(kind: Model) -> str:
    return _cell(kind.__doc__ or "")


def _cell(text: str) -> str:
    """Text as one line that a table takes, in which a page of the documentation is a link."""
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](\1.md)", " ".join(text.split()).replace("|", "\\|"))
