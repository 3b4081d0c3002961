"""YAML that is data and nothing else: written so that it is read back as it was, read in bounded time and memory. Pure.

Refused with one sentence and the line: a key that is there twice, tags, values that refer to themselves, aliases that
multiply, deep nesting, numbers that are no numbers or that nothing here can hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_BYTES = 2**20
_DEEPEST = 40
# With every alias counted as what it stands for; recipes have some hundred. So many are read in a few seconds.
_MAX_VALUES = 50_000
_LARGEST = 2**63
_TAG = "tag:yaml.org,2002:"
_ODD_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_KINDS = ("str", "int", "float", "bool", "null", "seq", "map", "timestamp", "merge")


class Unreadable(ValueError):
    """What is wrong with a text, as the end of a sentence without its full stop."""


def parse(data: bytes) -> Any:
    """The value of a YAML document; Unreadable when it is more than plain data, or more than is read."""
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 at byte {error.start:,}; save it as UTF-8") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise Unreadable(f"is not valid YAML: {_said(error)}") from None
    except (ValueError, OverflowError) as error:
        # A date such as 2025-02-30, which YAML takes for one.
        raise error if isinstance(error, Unreadable) else Unreadable(f"has an invalid value ({error})") from None


def dump(value: Any, **style: Any) -> str:
    """YAML that any parser reads as `value`, with keys in their order; `style` is what `yaml.dump` takes."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, **style))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, but for line ends that are none elsewhere: in plain style it writes U+0085 as a blank."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", text, style='"' if _ODD_LINE_ENDS.search(text) else None)


_Dumper.add_representer(str, _text)


def _said(error: yaml.YAMLError) -> str:
    """PyYAML's own words and place, without the piece of text that it shows."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        at = error.problem_mark or error.context_mark
        place = f", line {at.line + 1}, column {at.column + 1}" if at else ""
        return f"{error.context + ', ' if error.context else ''}{error.problem}{place}"
    return " ".join(str(error).split())[:300]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with a limit of depth, which it would meet as Python's own."""

    depth = values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable(f"is nested more than {_DEEPEST} deep, line {self.line + 1}")
        self.values += 1
        if self.values > _MAX_VALUES:
            raise Unreadable(f"has more than {_MAX_VALUES:,} values")
        made = super().compose_node(parent, index)
        self.depth -= 1
        return made

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > 100:
            raise _number(node)
        value = int(super().construct_yaml_int(node))
        if not -_LARGEST <= value < _LARGEST:
            raise _number(node)
        return value

    def construct_yaml_float(self, node: Any) -> float:
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            raise Unreadable(f"has a number that is not finite ({node.value[:40]}), line {_line(node)}")
        return value


_Loader.add_constructor(f"{_TAG}int", _Loader.construct_yaml_int)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_yaml_float)


def _number(node: Any) -> Unreadable:
    return Unreadable(f"has a number of {len(node.value):,} characters, line {_line(node)}, which no setting can be")


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _check(root: Any) -> None:
    """Unreadable for what a composed document must not hold: looked at once, however often it is referred to."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        """Values in a node, with all that its aliases stand for."""
        known = sizes.get(id(node))
        if known == 0:
            raise Unreadable(f"has a value that refers to itself, line {_line(node)}")
        if known is not None:
            return known
        sizes[id(node)] = 0
        _check_one(node)
        found = 1 + sum(size(below) for below in _below(node))
        if found > _MAX_VALUES:
            raise Unreadable(f"has more than {_MAX_VALUES:,} values, line {_line(node)}, counting what aliases repeat")
        sizes[id(node)] = found
        return found

    size(root)


def _below(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_one(node: Any) -> None:
    if node.tag not in [_TAG + kind for kind in _KINDS]:
        raise Unreadable(f"has a tag ({node.tag.replace(_TAG, '!!')[:60]}), line {_line(node)}; write plain values")
    if isinstance(node, yaml.ScalarNode) and ("\0" in node.value or _broken(node.value)):
        raise Unreadable(f"has a text that is not valid Unicode, or has a zero byte, line {_line(node)}")
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[tuple[str, str], Any] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise Unreadable(f"has a key that is not plain text, line {_line(key)}")
        before = seen.setdefault((key.tag, key.value), key)
        if before is not key:
            raise Unreadable(
                f'has the key "{key.value[:80]}" twice, lines {_line(before)} and {_line(key)}; keep one of them'
            )


def _broken(text: str) -> bool:
    """Whether it has half of a surrogate pair, which cannot be written."""
    return any("\ud800" <= char <= "\udfff" for char in text)
