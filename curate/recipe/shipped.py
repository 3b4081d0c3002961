"""Recipes of public datasets that come with the package, found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curate.errors import UserError, did_you_mean
from curate.recipe.parsing import read_yaml, validate
from curate.recipe.sections import IngestConfig


@dataclass(frozen=True)
class Summary:
    """One source of a recipe; `about` is the recipe's first comment sentence."""

    recipe: str
    role: str
    data: str
    answers: str
    licence: str | None
    about: str


def folder() -> Path:
    """Where they lie: in the installed package, or beside it in a working copy."""
    package = Path(__file__).parents[1]
    inside = package / "recipes_datasets"
    return inside if inside.is_dir() else package.parent / "recipes" / "datasets"


def names() -> list[str]:
    """All names, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(given: Path) -> Path:
    """The recipe's file: a path as it is, or one of ours by its bare name. UserError when there is neither."""
    return given if given.exists() or given.suffix or len(given.parts) != 1 else _ours(given.name)


def _ours(name: str) -> Path:
    if name not in names():
        raise UserError(f'There is no recipe "{name}"{did_you_mean(name, names())}')
    return folder() / f"{name}.yaml"


def text(name: str) -> str:
    """One of ours as it is written; UserError for any other name."""
    return _ours(name).read_text(encoding="utf-8")


def summaries() -> list[Summary]:
    """What there is, a line for each source."""
    found = []
    for name in names():
        path = folder() / f"{name}.yaml"
        config = validate(IngestConfig, read_yaml(path).get("ingest") or {}, "ingest")
        comment = path.read_text(encoding="utf-8").partition("\nname:")[0].replace("\n# ", " ").removeprefix("# ")
        for source in config.sources:
            where = getattr(source, "dataset", None) or str(getattr(source, "path", source.kind))
            part = f" ({source.config})" if getattr(source, "config", None) else ""  # type: ignore[union-attr]
            answers = getattr(source, "answer_type", None) or "by row"
            about = comment.partition(". ")[0].rstrip(".") + "."
            found.append(Summary(name, source.role, where + part, answers, source.licence, about))
    return found
