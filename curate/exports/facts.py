"""What a workspace says of how its data came about, fit to be shown to anybody: no path of this machine, no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from curate import catalog, lineage
from curate.schema import COMPLETIONS, DROPS, JUDGEMENTS, PROBLEMS, ROLLOUTS, STEP_LABELS, Table
from curate.store import Workspace

HIDDEN = "(left out)"
_SECRET = re.compile(
    r"(?:^|[_-])(?:key|token|secret|password|passwd|auth|authorization|headers|credentials?)$", re.IGNORECASE
)
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """Lineage records by table, the accounts of every partition, the newest run's recipe and all runs' commands."""

    sources: Mapping[str, Mapping[str, Any]]
    """Source -> its section of the recipe."""
    rollouts: Sequence[Mapping[str, Any]]
    completions: Sequence[Mapping[str, Any]]
    labels: Sequence[Mapping[str, Any]]
    judgements: Sequence[Mapping[str, Any]]
    drops: Sequence[Mapping[str, Any]]
    ledger: Sequence[Mapping[str, Any]]
    versions: Mapping[str, Sequence[str]]
    """Package -> the versions that made any of it."""
    recipe: str | None
    commands: Sequence[str]


def gather(workspace: Workspace) -> Facts:
    """Of a workspace as it is."""

    def records(table: Table) -> list[dict[str, Any]]:
        found = [lineage.read(partition) for partition in workspace.partitions(table)]
        return [public(record) for record in found if record is not None]

    tables = {table.name: records(table) for table in (PROBLEMS, ROLLOUTS, COMPLETIONS, STEP_LABELS, JUDGEMENTS, DROPS)}
    made: dict[str, set[str]] = {}
    for record in (record for group in tables.values() for record in group):
        for package, version in record["versions"].items():
            made.setdefault(package, set()).add(str(version))
    recipe, commands = _runs(workspace)
    return Facts(
        sources={record["partition"]: record["config"] for record in tables[PROBLEMS.name]},
        rollouts=tables[ROLLOUTS.name],
        completions=tables[COMPLETIONS.name],
        labels=tables[STEP_LABELS.name],
        judgements=tables[JUDGEMENTS.name],
        drops=tables[DROPS.name],
        ledger=catalog.ledger(workspace).to_dicts(),
        versions={package: sorted(versions) for package, versions in sorted(made.items())},
        recipe=recipe,
        commands=commands,
    )


def _runs(workspace: Workspace) -> tuple[str | None, list[str]]:
    """(newest recipe, commands in the order of the runs, each once)."""
    recipe, commands = None, dict[str, None]()
    for folder in sorted((workspace.root / "runs").glob("*")):
        try:
            tree = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
            recipe = yaml.safe_dump(public(tree), sort_keys=False, allow_unicode=True)
            words = json.loads((folder / "versions.json").read_text(encoding="utf-8"))["command"]
            commands[" ".join(map(_word, words))] = None
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            # A run that was killed while it wrote them.
            continue
    return recipe, list(commands)


def public(tree: Any, key: str = "") -> Any:
    """A tree of plain values without what is nobody else's business."""
    if tree not in (None, "", [], {}, ()) and (_SECRET.search(key) or key in ("urls", "url", "base_url")):
        return HIDDEN
    if isinstance(tree, Mapping):
        return {name: public(below, str(name)) for name, below in tree.items()}
    if isinstance(tree, list | tuple):
        return [public(below) for below in tree]
    return _path(tree) if isinstance(tree, str) else tree


def _path(text: str) -> str:
    """Of a path that names this machine's folders, the last part."""
    if _ADDRESS.match(text) and "@" in text:
        return HIDDEN
    return PurePath(text).name if text.startswith(("/", "~/")) and "\n" not in text else text


def _word(word: str) -> str:
    """A word of a command line."""
    name, equals, value = word.partition("=")
    if equals and (_SECRET.search(name.rpartition(".")[2]) or name.endswith((".urls", ".url", ".base_url"))):
        return f"{name}={HIDDEN}"
    if _ADDRESS.match(word):
        return HIDDEN
    return f"{name}={_path(value)}" if equals else _path(word)
