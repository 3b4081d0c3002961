"""`curate init`: from a file, a folder or a dataset of the hub to a recipe that was tried."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from curate.errors import RowError, UserError
from curate.init import findings, places, recipe
from curate.init.findings import Guess
from curate.init.guess import guess as guessed
from curate.init.places import role_of, slug
from curate.init.trial import Trial, tried
from curate.sections import RESERVED
from curate.sources.files import read
from curate.store import write_atomic

# So many records of each table are looked at, and so many rows tried.
LOOK = 300
TRY = 100
# A guess that is not sure gives way to another that brings in so many more of the rows, as a share.
_BETTER = 0.1
# Below this share of usable rows other values are tried.
_ENOUGH = 0.9
_ORDER = {"test": 0, "meta": 1, "train": 2}


@dataclass(frozen=True)
class Table:
    """A table that may become a source: where its records come from, and what is known before they are looked at."""

    title: str
    settings: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    known: Sequence[Guess] = ()
    places: Sequence[places.Place] = ()
    broken: int = 0


@dataclass
class Result:
    """What was written where, source by source, and what was left out and why."""

    recipe: Path
    drafts: list[recipe.Draft] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether rows of every source would come in."""
        return bool(self.trials) and all(trial.out for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        sources = [
            {
                "name": draft.settings["name"],
                "data": title,
                "role": draft.settings.get("role", "train"),
                "rows": trial.taken,
                "usable": trial.out,
                "answer_types": dict(trial.types),
                "rejected": dict(trial.rejected),
                "failure": trial.failure,
                "guesses": [vars(each) | {"others": list(each.others)} for each in draft.guesses],
            }
            for draft, trial, title in zip(self.drafts, self.trials, self.titles, strict=True)
        ]
        left = [{"data": title, "why": why} for title, why in self.left_out]
        return {
            "recipe": str(self.recipe),
            "ready": self.ready,
            "sources": sources,
            "left_out": left,
            "notes": self.notes,
        }


def local(where: Path, out: Path) -> tuple[str, list[Table], Result]:
    """The tables of a file or folder, with a name for the whole."""
    found, result = places.contents(where), Result(out)
    if found.partly:
        result.notes.append(f"Only the first {places.MOST_FILES:,} files of {where} were looked at.")
    if len(found.tables) > places.MOST_TABLES:
        result.notes.append(
            f"Only the first {places.MOST_TABLES} of {len(found.tables)} tables were looked at; give a folder below."
        )
    base = where if where.is_dir() else where.parent
    tables = []
    for path in found.tables[: places.MOST_TABLES]:
        title = str(path.relative_to(base))
        try:
            _, numbered = read(path)
            sample = list(islice(numbered, LOOK))
        except UserError as error:
            result.left_out.append((title, str(error)))
            continue
        records = [record for _, record in sample if not isinstance(record, RowError)]
        if not records:
            broken = next((str(record) for _, record in sample if isinstance(record, RowError)), "it has no rows")
            result.left_out.append((title, f"no record could be read: {broken}"))
            continue
        role, rest = role_of(path.stem, Path(title).parent.parts if where.is_dir() else path.parent.parts[-1:])
        known = [Guess("role", role or "train", *_why_role(role))]
        settings = {"kind": "files", "name": path.stem, "path": _from(path, out.parent), "domain": rest}
        tables.append(Table(title, settings, records, known, found.places, len(sample) - len(records)))
    return slug(where.resolve().stem if where.is_file() else where.resolve().name), tables, result


def _why_role(role: str | None) -> tuple[str, bool]:
    return ("its name says so", True) if role else ("no name says what it is for; or test, meta", False)


def _from(path: Path, base: Path) -> str:
    """The path as the recipe has it: relative where it lies below the recipe's folder."""
    whole = path.resolve()
    return os.path.relpath(whole, base.resolve()) if whole.is_relative_to(base.resolve()) else str(whole)


def drafted(name: str, tables: Sequence[Table], result: Result) -> Result:
    """A source for each table that has what a source needs, tried; the others are left out with the reason."""
    found = []
    for table in tables:
        draft, trial = _draft(table, result.recipe.parent)
        missing = _missing(draft)
        if missing:
            result.left_out.append((table.title, missing))
        elif not trial.out and any(each.out for _, _, each in found):
            result.left_out.append((table.title, _nothing(trial)))
        else:
            found.append((table, draft, trial))
    found = [each for each in found if each[2].out] or found
    found.sort(key=lambda each: (_ORDER[each[1].settings["role"]], each[0].title))
    names = _names(name, [draft for _, draft, _ in found])
    for (table, draft, trial), own in zip(found, names, strict=True):
        result.drafts.append(replace(draft, settings=_settled(draft.settings, name, own, len(found) > 1)))
        result.trials.append(trial)
        result.titles.append(table.title)
    return result


def _missing(draft: recipe.Draft) -> str | None:
    """What a source cannot do without and was not found."""
    for guess in draft.guesses:
        if guess.key in ("columns.question", "columns.answer") and guess.value is None and not guess.sure:
            columns = ", ".join(map(str, guess.others[:20]))
            return f"{guess.why}; its columns are {columns or 'none of that kind'}; give --set {guess.key}=COLUMN"
    return None


def _nothing(trial: Trial) -> str:
    reason = trial.failure or ", ".join(f"{count} {reason}" for reason, count in trial.rejected.most_common(3))
    return f"none of {trial.taken} rows would come in ({reason})"


def _draft(table: Table, base: Path) -> tuple[recipe.Draft, Trial]:
    guesses = [*table.known, *guessed(table.records, table.places)]
    draft = _with(table, guesses)
    if _missing(draft):
        return draft, Trial()
    trial = tried(draft.settings, base, TRY)
    for other in _variants(guesses) if trial.share < _ENOUGH else ():
        another = _with(table, other)
        found = tried(another.settings, base, TRY)
        if found.share >= trial.share + _BETTER:
            draft, trial = another, found
    return draft, trial


def _with(table: Table, guesses: Sequence[Guess]) -> recipe.Draft:
    return recipe.Draft({**table.settings, **findings.tree(each for each in guesses if _stands(each))}, guesses)


def _stands(guess: Guess) -> bool:
    """Whether a guess becomes a setting: null ones do only where null is the value that is meant."""
    return guess.value is not None or guess.sure


def _variants(guesses: Sequence[Guess]) -> Iterator[list[Guess]]:
    """The guesses with another value for one of those that are not sure."""
    for place, guess in enumerate(guesses):
        if guess.sure or guess.value is None or guess.key == "columns.domain":
            continue
        for other in guess.others[:4]:
            why = f"{guess.why}; with {recipe.plain(guess.value)} fewer rows came in"
            left = [guess.value, *(each for each in guess.others if each != other)]
            yield [*guesses[:place], replace(guess, value=other, why=why, others=left), *guesses[place + 1 :]]


def _names(name: str, drafts: Sequence[recipe.Draft]) -> list[str]:
    """A name for each source that no other has and the workspace does not use itself."""
    found: list[str] = []
    for draft in drafts:
        stem = slug(str(draft.settings["name"]))
        own = stem if stem.startswith(name) else f"{name}-{stem}"
        if len(drafts) == 1 and name not in RESERVED:
            own = name
        number, plain = 2, own
        while own in found or own in RESERVED:
            own, number = f"{plain}-{number}", number + 1
        found.append(own)
    return found


def _settled(settings: Mapping[str, Any], name: str, own: str, several: bool) -> dict[str, Any]:
    """With the source's final name; sources of one data set are one domain unless a column says more."""
    label = slug(str(settings.get("domain") or ""))
    domain = name if label == "data" or name.startswith(label) else f"{name}-{label}"
    found = {**settings, "name": own, "domain": domain}
    if "domain" in settings.get("columns", {}) or not several:
        del found["domain"]
    return found


def written(name: str, data: str, result: Result, force: bool) -> None:
    """Write the recipe; UserError when there is one already, or nothing to write."""
    if not result.drafts:
        listed = "; ".join(f"{title}: {why}" for title, why in result.left_out[:3])
        raise UserError(f"No table of {data} can be read as problems. {listed or 'It holds no rows'}.")
    check_free(result.recipe, force)
    write_atomic(result.recipe, recipe.text(name, data, result.drafts).encode("utf-8"))


def check_free(path: Path, force: bool) -> None:
    """UserError when the recipe is there already and is not to be written over."""
    if path.exists() and not force:
        raise UserError(f"There is {path} already; give --force to write over it, or another --recipe.")
