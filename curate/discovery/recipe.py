"""A recipe as a text: the settings of its sources, each with a comment that says why. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.discovery.findings import Guess
from curate.runtime import plain_yaml

_WIDTH = 110
_ALTERNATIVES = 6
_ORDER = ("kind", "name", "path", "dataset", "config", "split", "revision", "role", "domain", "root", "licence",
          "columns", "choices_form", "answer_form", "answer_type", "answer_types", "form", "chain")  # fmt: skip


@dataclass(frozen=True)
class SourceDraft:
    """A source of the recipe: its settings, the guesses behind them, and remarks that stand above it."""

    settings: Mapping[str, Any]
    guesses: Sequence[Guess]
    remarks: Sequence[str] = ()


def text(name: str, data: str, drafts: Sequence[SourceDraft]) -> str:
    """The whole file. A guess that stands in an earlier source alike is not explained again."""
    lines = [
        *_comment(
            f"Written by `curate init` after a look at {data}. What is marked NOT SURE is for you to look at.", 0
        ),
        *_comment("See the first problem of each source, and its prompt, with: curate ingest THIS-FILE --dry-run", 0),
        _line("name", name),
        "ingest:",
        "  sources:",
    ]
    told: set[tuple[str, str]] = set()
    for draft in drafts:
        for remark in draft.remarks:
            lines += _comment(remark, 4)
        lines += _source(draft, told)
    lines += _comment("Sections rollout, label, shard, train and report take it from here; see the README.", 0)
    return "\n".join(lines) + "\n"


def _source(draft: SourceDraft, told: set[tuple[str, str]]) -> Iterator[str]:
    known = {guess.key: guess for guess in draft.guesses}
    settings = draft.settings
    keys = [key for key in _ORDER if key in settings] + [key for key in settings if key not in _ORDER]
    yield f"    - {_line(keys[0], settings[keys[0]])}"
    for key in keys[1:]:
        value = settings[key]
        if isinstance(value, Mapping) and any(each.startswith(key + ".") for each in known):
            yield f"      {key}:"
            for name, below in value.items():
                yield from _told(known.get(f"{key}.{name}"), told, 8)
                yield " " * 8 + _line(name, below)
        else:
            yield from _told(known.get(key), told, 6)
            yield " " * 6 + _line(key, value)
    for guess in draft.guesses:
        if guess.value is None and not guess.sure and guess.key not in ("columns.question", "columns.answer"):
            yield from _comment(f"SET THIS: {guess.key}: ...  {guess.why}.", 6)


def _told(guess: Guess | None, told: set[tuple[str, str]], indent: int) -> Sequence[str]:
    if guess is None or (guess.key, repr(guess.value)) in told:
        return ()
    told.add((guess.key, repr(guess.value)))
    return _comment(said(guess), indent)


def said(guess: Guess) -> str:
    """The reason of a guess, marked where it is not sure, with what else it could be."""
    others = f" Or: {alternatives(guess)}." if guess.others and not guess.sure else ""
    return f"{guess.why}." if guess.sure else f"NOT SURE: {guess.why}.{others}"


def alternatives(guess: Guess) -> str:
    """What else it could be; of many only the first."""
    more = f" and {len(guess.others) - _ALTERNATIVES} more" if len(guess.others) > _ALTERNATIVES else ""
    return ", ".join(map(plain, guess.others[:_ALTERNATIVES])) + more


def plain(value: Any) -> str:
    """A value as it stands in a recipe, on one line."""
    # A text of several lines stays on one in double quotes only.
    style = '"' if isinstance(value, str) and "\n" in value else None
    dumped = plain_yaml.dump(value, default_flow_style=True, default_style=style, allow_unicode=True, width=10**6)
    return dumped.removesuffix("\n...\n").strip()


def _line(key: str, value: Any) -> str:
    return f"{key}: {plain(value)}"


def _comment(words: str, indent: int) -> list[str]:
    """Lines of a comment; what a file of YAML cannot hold is left out."""
    clean = "".join(char if char.isprintable() else " " for char in words)
    return [" " * indent + "# " + line for line in textwrap.wrap(clean, _WIDTH - indent)]
