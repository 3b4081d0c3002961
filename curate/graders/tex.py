r"""Expressions that people type, as TeX: `sqrt(8)`, `2*pi`, `x**2` mean what \sqrt{8}, 2\pi, x^2 do. Pure text."""

from __future__ import annotations

import re

from curate.graders.base import plain

_SIGNS = str.maketrans(
    {
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ",
        "∞": r"\infty ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "°": r"^\circ",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
        "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ",
        "∠": r"\angle ", "∅": r"\emptyset ",
    }
)  # fmt: skip
_NAMES = re.compile(
    r"(?<![\\A-Za-z])(pi|infinity|inf|theta|alpha|beta|gamma|lambda|sin|cos|tan|cot|sec|csc|ln|log"
    r"|exp|arcsin|arccos|arctan)(?![A-Za-z])"
)
_RENAMED = {"infinity": r"\infty ", "inf": r"\infty "}
_ROOT = re.compile(r"(?<![\\A-Za-z])(?:sqrt|root)\s*(?=[({\d])|√\s*")
_WORD_POWER = re.compile(r"\s*\*\*\s*")
_LONE_DIGITS = re.compile(r"\^\s*\(([^()]*)\)|\^\s*(-?\d{2,}|-\d)")
# Words of a formula; any other letters make it no closed form.
_CONSTANTS = re.compile(
    r"\\(?:frac|sqrt|pi|cdot|times|div|circ|degree|log|ln|lg|sin|cos|tan|cot|sec|csc|arcsin|arccos"
    r"|arctan|exp|binom|left|right|pm|%)(?![A-Za-z])"
)
_CLOSED = re.compile(r"[\d\s+\-*/^!().,{}\[\]_|]*")


def _group(text: str, start: int) -> int:
    """Behind the group or the number that begins at `start`."""
    if start >= len(text):
        return start
    pairs = {"(": ")", "{": "}"}
    if text[start] not in pairs:
        found = re.compile(r"\d+(?:\.\d+)?|\\?[A-Za-z]").match(text, start)
        return found.end() if found else start
    opens, closes, depth = text[start], pairs[text[start]], 0
    for place in range(start, len(text)):
        depth += (text[place] == opens) - (text[place] == closes)
        if depth == 0:
            return place + 1
    return len(text)


def _roots(text: str) -> str:
    found, place = [], 0
    for match in _ROOT.finditer(text):
        if match.start() < place:
            continue
        end = _group(text, match.end())
        inner = text[match.end() : end]
        if inner[:1] in ("(", "{"):
            inner = inner[1:-1]
        found += [text[place : match.start()], rf"\sqrt{{{_roots(inner)}}}"]
        place = end
    return "".join([*found, text[place:]])


def to_tex(text: str) -> str:
    """The expression as TeX; what is TeX already stays."""
    text = _WORD_POWER.sub("^", plain(text).replace("{,}", ","))
    text = _roots(text).translate(_SIGNS)
    text = _NAMES.sub(lambda match: _RENAMED.get(match[1], rf"\{match[1]} "), text)
    text = _LONE_DIGITS.sub(lambda match: f"^{{{match[1] or match[2]}}}", text)
    return re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w({\\])", r" \\cdot ", text)


def closed_form(text: str) -> str | None:
    """TeX of a text that is a formula of numbers alone (roots, fractions, π, functions); else None."""
    tex = to_tex(text)
    rest = _CONSTANTS.sub(" ", tex)
    if r"\pm" in tex or not _CLOSED.fullmatch(rest) or not any(char.isdigit() or char == "π" for char in tex + text):
        return None
    # "8:15", "3, 4" and "(1)(2)" aside, a formula has an operator, a function or a constant.
    return tex if re.search(r"\\(?!%)[a-z]|[\^!*/+]|(?<=[\d)}])\s*-", tex) and not re.search(r"\d\s*,\s", tex) else None
