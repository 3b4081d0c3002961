"""Unions of sections in which one key says which kind is meant, such as `label.mode`, and how a place in them is found.

`Annotated[PooledLabels | ExactLabels, OneOf("mode", "pooled")]` is such a union: each of its members has the key as a
field whose type is a `Literal` of the values that choose it. A member may be a union by another key of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# Characters of a user's word in a sentence.
SHOWN = 100


@dataclass(frozen=True)
class OneOf:
    """Mark a union as decided by the value of `key`; `default` is meant where a recipe leaves the key out.

    Without a default (`...`) the key is required.
    """

    key: str
    default: Any = ...

    def tag(self, value: Any) -> str:
        """Write a value of the key beside it, "mode exact", as sentences say it."""
        plain = {True: "true", False: "false", None: "null"}.get(value) if value in (None, True, False) else None
        return f"{self.key} {plain or str(value)[:SHOWN]}"

    def __get_pydantic_core_schema__(self, union: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by the one member that the key chooses, so that errors are about that member alone."""
        choices = {
            self.tag(value): handler.generate_schema(member)
            for member in members(union)
            for value in values(member, self.key)
        }
        first = next(iter(choices))

        def chosen(given: Any) -> str | None:
            if isinstance(given, dict):
                value = given.get(self.key, self.default)
            else:
                # What is no mapping is refused by any member in the same words.
                value = getattr(given, self.key, None) if isinstance(given, BaseModel) else ...
                return first if value is ... else self.tag(value)
            return None if value is ... else self.tag(value)

        return core_schema.tagged_union_schema(choices, chosen)


@dataclass(frozen=True)
class Fork:
    """A union on the way to a place in a section: the tag that was chosen, and how many keys lead up to it."""

    one_of: OneOf
    union: Any
    tag: str
    depth: int


@dataclass(frozen=True)
class SettingPlace:
    """Where an error of pydantic's is: the recipe's keys without the tags of unions, and the unions that were passed.

    `types` are what may stand there and `holders` what holds its last key, both as annotations.
    """

    keys: tuple[str, ...]
    forks: tuple[Fork, ...]
    types: tuple[Any, ...]
    holders: tuple[Any, ...]


def members(union: Any) -> tuple[Any, ...]:
    """List the members of a union, `Annotated` or not."""
    if get_origin(union) is Annotated:
        union = get_args(union)[0]
    return get_args(union)


def values(member: Any, key: str) -> tuple[Any, ...]:
    """List the values of `key` that choose a member; for a member that is a union itself, those of all its own."""
    if isinstance(member, type) and issubclass(member, BaseModel):
        return get_args(member.model_fields[key].annotation)
    found = [value for each in members(member) for value in values(each, key)]
    return tuple(dict.fromkeys(found))


def models(kind: Any) -> list[type[BaseModel]]:
    """List every section type that an annotation is made of, in the order of writing."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in get_args(kind) for model in models(part)]


def unions(kind: Any) -> Iterator[tuple[OneOf, Any]]:
    """Find the unions by a key in an annotation, such as in `tuple[Annotated[A | B, OneOf("kind")], ...] | None`."""
    if get_origin(kind) is Annotated:
        one_of = next((each for each in kind.__metadata__ if isinstance(each, OneOf)), None)
        if one_of is not None:
            yield one_of, kind
            return
    for part in get_args(kind):
        yield from unions(part)


def find(kind: Any, location: Sequence[int | str]) -> SettingPlace:
    """Follow the location of an error in a section of type `kind`; a plain path of keys is one, too.

    Where a path leaves out which member is meant, any of them will do.
    """
    holders: list[Any] = [kind]
    types, keys, forks = holders, list[str](), list[Fork]()
    for part in location:
        fork = next((fork for each in types for fork in _forks(each, part, len(keys))), None)
        if fork is not None:
            forks.append(fork)
            types = [each for each in members(fork.union) if fork.tag in tags(each, fork.one_of)]
        else:
            keys.append(str(part)[:SHOWN])
            holders, types = types, types if isinstance(part, int) else below(types, part)
    return SettingPlace(tuple(keys), tuple(forks), tuple(types), tuple(holders))


def _forks(kind: Any, part: int | str, depth: int) -> Iterator[Fork]:
    for one_of, union in unions(kind):
        if part in tags(union, one_of):
            yield Fork(one_of, union, str(part), depth)


def tags(member: Any, one_of: OneOf) -> list[str]:
    """List the tags of a member, or of all members of a union."""
    return [one_of.tag(value) for value in values(member, one_of.key)]


def below(types: Sequence[Any], key: str) -> list[Any]:
    """List the types of the field `key` in whatever sections these annotations are made of."""
    found = [model.model_fields[key] for kind in types for model in models(kind) if key in model.model_fields]
    return [Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation for field in found]


def owners(place: SettingPlace, value: tuple[Any, ...] = ()) -> tuple[Fork, list[str]] | None:
    """Tell who has the key at a place where the chosen member of a union lacks it: the union, and the others' tags.

    With a `value`, who has the key as a `Literal` of it. None where no other member has it either.
    """
    for fork in reversed(place.forks):
        path = [key for key in place.keys[fork.depth :] if not key.isdigit()]
        others = [each for each in members(fork.union) if fork.tag not in tags(each, fork.one_of)]
        found = [tag for each in others if _leads(each, path, value) for tag in tags(each, fork.one_of)]
        if found:
            return fork, found
    return None


def _leads(kind: Any, path: Sequence[str], value: tuple[Any, ...]) -> bool:
    types: list[Any] = [kind]
    for key in path:
        types = below(types, key)
    return bool(types) and (not value or any(value[0] in get_args(each) for each in types))
