"""What a workspace's report was asked for last: the sections `report` and `select` of its runs."""

from __future__ import annotations

from collections.abc import Sequence

from curate.errors import UserError, did_you_mean
from curate.pipeline import Recipe
from curate.recipe.parsing import Config, apply_settings, read_yaml, validate
from curate.seeds import digest
from curate.tables.store import Store
from prm.sections import ReportConfig, SelectConfig

_SECTIONS: dict[str, type[Config]] = {"report": ReportConfig, "select": SelectConfig}


def recipe(workspace: Store, settings: Sequence[str] = ()) -> Recipe:
    """A recipe of these two sections: each as in the newest run that has it, else its defaults, with `settings`.

    UserError for a setting of another section: it would have no effect.
    """
    tree: dict[str, object] = {}
    for path in sorted((workspace.root / "runs").glob("*/recipe.yaml"), reverse=True):
        if not _SECTIONS.keys() - tree.keys():
            break
        found = read_yaml(path)
        if digest(found, length=8) != path.parent.name.rpartition("-")[2]:
            raise UserError(f"{path} is damaged, or was changed; delete its folder, or give a recipe.")
        tree = {name: found[name] for name in _SECTIONS if name in found} | tree
    tree = apply_settings({name: tree.get(name) or {} for name in _SECTIONS}, settings)
    for name in tree.keys() - _SECTIONS.keys():
        raise UserError(
            f'--set {name} has no effect on a report of a workspace; it has the sections "report" and "select"'
            f"{did_you_mean(name, list(_SECTIONS))}"
        )
    sections = {name: validate(kind, tree[name], name) for name, kind in _SECTIONS.items()}
    return Recipe("report", 0, workspace.root.resolve(), sections, workspace.root.resolve())
