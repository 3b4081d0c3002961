"""Values inside scripts: JSON that can neither end its script nor start another one."""

from __future__ import annotations

import json
from typing import Any


def literal(value: Any) -> str:
    """JSON without `<`, `>`, `&` and beyond ASCII: safe in a script element and in a file of its own."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def call(name: str, stamp: str, value: Any) -> str:
    """A script that hands the value of file `name` to the page."""
    return f"curateData({literal(name)},{literal(stamp)},{literal(value)});\n"
