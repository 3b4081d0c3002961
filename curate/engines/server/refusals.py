"""What a server says when it refuses a request: as a sentence for people, and which parameters it does not take. Pure.

Servers agree on no form: a message under `error`, `detail` or `message`, a list of them, text, a page of HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

_SHOWN, _READ = 300, 5000
_MESSAGES = ("error", "message", "detail", "msg", "errors", "error_message", "reason", "title")
# Fields that point at a part of the request.
_PLACES = ("param", "loc", "field", "path")
_UNKNOWN = re.compile(
    r"(?i)unsupported|not (?:\w+ )?supported|(?:not|n't) support|unrecogni[sz]ed|unknown|unexpected|extra[ _]|"
    r"not permitted|not allowed|not available|unavailable|not implemented|cannot find|cannot (?:both )?be|disabled|"
    r"deprecated|no such|invalid (?:argument|field|parameter|property|option)|not enabled|remove"
)
_SIZE = r"too (?:large|long|big|high|many)|at most|maximum|exceed|less than|more than|reduce|context|[<>≤≥]"
_TOO_LARGE = re.compile(rf"(?i){_SIZE}")
_VALUE = re.compile(rf"(?i){_SIZE}|greater than|between|range|must be|should be|expected|invalid|overflow|\bonly\b")
# Behind these words stand the parameters that are right.
_RIGHT_ONES = re.compile(
    r"(?i)expected one of|(?:supported|valid|allowed|known) (?:parameters|fields|arguments)|\buse\b"
)
_ONE_SAMPLE = re.compile(
    r"(?i)(?:only (?:one|1|a single)|single|multiple|several|more than (?:one|1)) (?:\w+ )?(?:choice|completion|sample|"
    r"sequence|candidate|response|output)s?"
)
_MARK = re.compile(r"""(?i)\b(prefix|partial)['"`]?\s*(?:[:=]|to|is|set)?\s*true\b""")
_SPENT = re.compile(r"(?i)insufficient_quota|current quota|billing")
_PAGE = re.compile(r"(?is)<(style|script|head)\b.*?</\1>|<[^<>]*>")
# Pieces of a key from which on they are a secret; a shorter key than four characters keeps nothing.
_SECRET, _SHORT = 8, 4


@dataclass(frozen=True)
class Refusal:
    """One refusal: its HTTP status (0 where it has none), what it says, short and whole, and where it points."""

    status: int
    sentence: str
    text: str
    kinds: str
    places: frozenset[str]

    @property
    def unknown(self) -> bool:
        """Whether it refuses a parameter as such."""
        return bool(_UNKNOWN.search(f"{self.text} {self.kinds}"))

    @property
    def passes(self) -> bool:
        """Whether the same request may be right later; a quota that is used up does not come back while we wait."""
        if self.status == 429:
            return not _SPENT.search(f"{self.text} {self.kinds}")
        return self.status in (0, 408, 409) or self.status >= 500

    @property
    def of_parameters(self) -> bool:
        """Whether it may be about a parameter: some servers answer 500 to one that they do not know."""
        if self.status in (0, 500, 501):
            return self.unknown or bool(_ONE_SAMPLE.search(self.text))
        return self.status in (400, 405, 406, 413, 415, 422)

    @property
    def too_large(self) -> bool:
        """Whether it refuses a value for its size."""
        return bool(_TOO_LARGE.search(self.text))

    def names(self, sent: Collection[str]) -> list[str]:
        """Which of the parameters that were sent it refuses; [] where it does not say."""
        if pointed := [name for name in sent if name in self.places]:
            return pointed
        if not self.unknown and not _VALUE.search(self.text):
            return []
        text = _RIGHT_ONES.split(self.text, maxsplit=1)[0]
        found = [name for name in sent if re.search(rf"(?<![\w.-]){name}(?![\w-])", text)]
        if "n" in sent and "n" not in found and _ONE_SAMPLE.search(self.text):
            found.append("n")
        return found

    def mark(self) -> str | None:
        """The mark that it wants on a message which the model is to go on from; null where it asks for none."""
        found = _MARK.search(self.text)
        return None if found is None else found[1].lower()

    def numbers(self) -> list[int]:
        """The whole numbers in it."""
        return [int(each) for each in re.findall(r"(?<![\w.])\d{1,20}(?![\w])", self.text)]


def read(status: int, body: Any, secret: str = "") -> Refusal:
    """A refusal from the body of an answer, as text or parsed; `secret` is blotted out."""
    tree = body
    if isinstance(body, str):
        try:
            tree = json.loads(body)
        except (ValueError, RecursionError):
            tree = body
    sentence = " ".join(_PAGE.sub(" ", _said(tree)).split())
    kinds = " ".join(str(value) for key, value in _fields(tree) if key in ("code", "type") and isinstance(value, str))
    places = {
        word
        for key, value in _fields(tree)
        if key in _PLACES
        for word in re.findall(r"\w+", " ".join(map(str, value)) if isinstance(value, list) else str(value))
    }
    text = without(sentence[:_READ], secret)
    return Refusal(status, text if len(text) <= _SHOWN else text[:_SHOWN] + "...", text, kinds, frozenset(places))


def _said(tree: Any, depth: int = 0) -> str:
    """What an error says for people; JSON where no field is known to say it."""
    if isinstance(tree, str) or depth > 5:
        return str(tree)
    if isinstance(tree, list):
        return "; ".join(_said(each, depth + 1) for each in tree[:3])
    if isinstance(tree, dict):
        for key in _MESSAGES:
            if tree.get(key):
                where = ".".join(map(str, tree["loc"])) + ": " if isinstance(tree.get("loc"), list) else ""
                return where + _said(tree[key], depth + 1)
    return json.dumps(tree, ensure_ascii=False) if tree is not None else ""


def _fields(tree: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All (key, value) of an error's objects, outermost first."""
    if depth > 5:
        return
    if isinstance(tree, dict):
        yield from tree.items()
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _fields(each, depth + 1)


def without(text: str, secret: str) -> str:
    """The text with every piece of the secret of eight characters or more blotted out; of a shorter one, the whole."""
    least = min(_SECRET, len(secret))
    if least < _SHORT or not any(secret[at : at + least] in text for at in range(len(secret) - least + 1)):
        return text
    for size in range(len(secret), least - 1, -1):
        for at in range(len(secret) - size + 1):
            text = text.replace(secret[at : at + size], "***")
    return text
