"""`curate init`: from a file, a folder or a dataset of the hub to a recipe that was tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate.discovery import findings, recipe
from curate.discovery.findings import Guess
from curate.discovery.guess import guess as guessed
from curate.discovery.places import role_of, slug
from curate.discovery.recipe import SourceDraft
from curate.discovery.tables import CandidateTable, Found
from curate.discovery.trial import SourceTrial, tried
from curate.errors import UserError
from curate.recipe.parsing import apply_settings
from curate.recipe.source_sections import RESERVED
from curate.tables.store import write_atomic

# So many rows of each table are tried.
TRY = 100
# A guess that is not sure gives way to another that brings in so many more of the rows, as a share.
_BETTER = 0.1
# Below this share of usable rows other values are tried.
_ENOUGH = 0.9
_ORDER = {"test": 0, "meta": 1, "train": 2}


Tried = tuple[CandidateTable, SourceDraft, SourceTrial]


@dataclass
class InitResult:
    """What was written where, source by source, and what was left out and why."""

    recipe: Path
    drafts: list[SourceDraft] = field(default_factory=list)
    trials: list[SourceTrial] = field(default_factory=list)
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


def drafted(name: str, out: Path, tables: Found, given: Sequence[Guess] = ()) -> InitResult:
    """A source for each table that has what a source needs, tried; the others are left out with the reason.

    `given` stands in the place of guesses.
    """
    result, found = InitResult(out, left_out=list(tables.left_out), notes=list(tables.notes)), []
    for table in tables.tables:
        draft, trial = _draft(table, out.parent, given)
        missing = _missing(draft)
        if missing:
            result.left_out.append((table.title, missing))
        else:
            found.append((table, draft, trial))
    if any(trial.out for _, _, trial in found):
        result.left_out += [(table.title, _why_not(draft, trial)) for table, draft, trial in found if not trial.out]
        found = [each for each in found if each[2].out]
    found.sort(key=lambda each: (_ORDER[each[1].settings["role"]], len(each[0].title), each[0].title))
    found = _apart(found, result)
    titles = [table.title for table, _, _ in found]
    folders = len({Path(title).parent for title in titles})
    names = _names(name, [draft for _, draft, _ in found], titles)
    for (table, draft, trial), own in zip(found, names, strict=True):
        result.drafts.append(replace(draft, settings=_settled(draft, table.title, name, own, folders)))
        result.trials.append(trial)
        result.titles.append(table.title)
    return result


def _apart(found: Sequence[Tried], result: InitResult) -> list[Tried]:
    """Without tables whose problems are for the most part those of one before: ingest would reject them."""
    kept: list[Tried] = []
    for each in found:
        table, _, trial = each
        twin = next((one.title for one, _, other in kept if len(trial.problems & other.problems) > trial.out / 2), None)
        if twin is None:
            kept.append(each)
        else:
            result.left_out.append((table.title, f"most of its problems are those of {twin}"))
    return kept


def _missing(draft: SourceDraft) -> str | None:
    """What a source cannot do without and was not found."""
    for guess in draft.guesses:
        if guess.key in ("columns.question", "columns.answer") and guess.value is None and not guess.sure:
            columns = ", ".join(map(str, guess.others[:20]))
            return f"{guess.why}; its columns are {columns or 'none of that kind'}; give --set {guess.key}=COLUMN"
    return None


def _nothing(trial: SourceTrial) -> str:
    if trial.failure is not None:
        return f"no row would come in: {trial.failure}"
    reason = ", ".join(f"{count} {reason}" for reason, count in trial.rejected.most_common(3))
    return f"none of {trial.taken} rows would come in ({reason})"


def _why_not(draft: SourceDraft, trial: SourceTrial, place: str = "") -> str:
    """Why no row would come in, with the key that is to be set."""
    missing = [each for each in draft.guesses if each.value is None and not each.sure and not each.others]
    return _nothing(trial) + "".join(f"; set {place}{each.key}: {each.why}" for each in missing[:1])


def _draft(table: CandidateTable, base: Path, given: Sequence[Guess]) -> tuple[SourceDraft, SourceTrial]:
    stated = {guess.key for guess in given}
    looked = [*table.known, *guessed(table.records, table.shown)]
    guesses = [*(guess for guess in looked if guess.key not in stated), *given]
    draft = _with(table, guesses)
    if _missing(draft):
        return draft, SourceTrial()
    trial = tried(draft.settings, base, TRY)
    for other in _variants(guesses) if trial.share < _ENOUGH else ():
        another = _with(table, other)
        found = tried(another.settings, base, TRY)
        if found.share >= trial.share + _BETTER:
            draft, trial = another, found
    return draft, trial


def _with(table: CandidateTable, guesses: Sequence[Guess]) -> SourceDraft:
    settings = {**table.settings, **findings.tree(each for each in guesses if _stands(each))}
    if "answer_type" not in settings.get("columns", {}):
        # Its meanings go with the column.
        settings.pop("answer_types", None)
        guesses = [guess for guess in guesses if guess.key != "answer_types"]
    return SourceDraft(settings, guesses)


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


def _names(name: str, drafts: Sequence[SourceDraft], titles: Sequence[str]) -> list[str]:
    """A name for each source that no other has and the workspace does not use itself."""
    if len(drafts) == 1 and name not in RESERVED:
        return [name]
    stems = [slug(str(draft.settings["name"])) for draft in drafts]
    whole = [slug(str(Path(title).with_suffix(""))) if stems.count(stem) > 1 else stem
             for stem, title in zip(stems, titles, strict=True)]  # fmt: skip
    found: list[str] = []
    for stem in whole:
        own = stem if stem.startswith(name) else f"{name}-{stem}"
        number, plain = 2, own
        while own in found or own in RESERVED:
            own, number = f"{plain}-{number}", number + 1
        found.append(own)
    return found


def _settled(draft: SourceDraft, title: str, name: str, own: str, folders: int) -> dict[str, Any]:
    """With the source's final name; sources of one data set, in all their splits, are one domain unless a column says
    more: the part of the name before the split, or else the folder where there are several.
    """
    parent = Path(title).parent.name
    label = str(draft.settings.get("domain") or "") or (role_of(parent)[1] if folders > 1 else "")
    domain = name if not label or slug(label) == "data" or name.startswith(slug(label)) else f"{name}-{slug(label)}"
    found = {**draft.settings, "name": own, "domain": domain}
    if "domain" in found.get("columns", {}) or domain == own:
        del found["domain"]
    return found


def write(name: str, data: str, result: InitResult, force: bool) -> None:
    """Write the recipe; UserError when there is one already, or nothing to write."""
    if not result.drafts:
        listed = "; ".join(f"{title}: {why}" for title, why in result.left_out[:3])
        raise UserError(f"No table of {data} can be read as problems. {listed or 'It holds no rows'}.")
    check_free(result.recipe, force)
    write_atomic(result.recipe, recipe.text(name, data, result.drafts).encode("utf-8"))


def check_free(path: Path, force: bool) -> None:
    """UserError when the recipe is there already and is not to be written over."""
    if path.exists() and not force:
        raise UserError(f"{path} already exists; give --force to overwrite it, or another --recipe.")


def name_of(where: Path) -> str:
    """A name for data: of a file or folder, or of a dataset by its last part."""
    name = slug(where.stem if where.suffix and where.is_file() else where.name)
    # "train" says nothing of the data, and a workspace has a part of that name.
    return f"{slug(where.parent.name)}-{name}" if name in RESERVED or role_of(name)[1] == "" else name


def unready(result: InitResult) -> str:
    """One sentence on what has to be set before anything comes in."""
    place, trial = next((place, trial) for place, trial in enumerate(result.trials) if not trial.out)
    why = _why_not(result.drafts[place], trial, f"ingest.sources.{place}.")
    return f"{result.recipe} is written, and of {result.titles[place]} {why}."


def given(settings: Sequence[str]) -> list[Guess]:
    """Settings of the user, `columns.answer=gold`, as guesses that are sure; UserError for what is no setting."""
    found = []
    for assignment in settings:
        key = assignment.partition("=")[0]
        value: Any = apply_settings({}, [assignment])
        for part in key.split("."):
            value = value[part]
        found.append(Guess(key, value, "as given"))
    return found
