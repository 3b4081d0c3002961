"""Lists that stand in a text: JSON, Python's or NumPy's way of writing them, as cells of tables hold them. Pure."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|True|False|None|nan"
_ITEM = re.compile(rf"\s*(?P<item>{_STRING}|{_NUMBER})(?=[\s\]]|['\"])", re.DOTALL)
_ARRAY = re.compile(r"(?:np\.|numpy\.)?array\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_QUOTED = re.compile(_STRING, re.DOTALL)
_BESIDE = re.compile(r"\s*['\"]")
_QUOTE = re.compile(r"['\"]")
# Backslashes that no writer of JSON or Python leaves single: escapes that there are none of, form feeds and backspaces,
# and names of TeX that begin like a tabulator, a line break or a carriage return.
_UNESCAPED = re.compile(
    r"(?<!\\)(?:\\\\)*\\(?:[^\"'\\/bfnrtuxUN0-7av\n]|[bfav][a-zA-Z]|u(?![0-9a-fA-F]{4})|"
    r"(?:text[a-z]*|times|theta|tan|tau|tfrac|to|triangle|top|neq?|nu|not|nabla|rho|right|rangle|rm)(?![a-z]))"
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def parse(text: str) -> Any:
    """What the text writes, mostly a list; ValueError when it is none, or when it cannot be told what its items are."""
    text = text.strip()
    array = _ARRAY.fullmatch(text)
    text = array[1] if array else text
    if _UNESCAPED.search(text):
        # TeX as it is, not escaped for the list: the backslashes are meant.
        text = _ESCAPE.sub(_doubled, text)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if text.startswith("[") and _joins(text):
        return _spaced(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        # Deep nesting raises two of them.
        pass
    return _spaced(text)


def _doubled(match: re.Match[str]) -> str:
    return match[0] if match[1] in "\\\"'" else "\\" + match[0]


def _joins(text: str) -> bool:
    """Whether two strings stand side by side, outside of any string."""
    at = 0
    while (quote := _QUOTE.search(text, at)) is not None:
        found = _QUOTED.match(text, quote.start())
        if found is None:
            raise ValueError("a string in it does not end")
        at = found.end()
        # Python would join them.
        if _BESIDE.match(text, at):
            return True
    return False


def _spaced(text: str) -> list[Any]:
    """NumPy's way, items parted by blanks alone; lists of them are not read."""
    if not text.startswith("[") or not text.endswith("]"):
        raise ValueError("no list")
    items, at, end = list[Any](), 1, len(text[:-1].rstrip())
    while at < end:
        match = _ITEM.match(text, at)
        if match is None:
            raise ValueError("its items are parted neither by commas nor by blanks")
        items.append(None if match["item"] == "nan" else ast.literal_eval(match["item"]))
        at = match.end()
    return items
