"""The Python API: every stage of `curate` as a function with the command's name, and a workspace to look into.

    ledger = curate.ingest("mine.yaml", "work/mine")
    curate.rollout("mine.yaml", "work/mine", settings={"rollout.samples.train": 4})
    curate.Workspace("work/mine").polars("rollouts")

A function does what the command does, with the same defaults, and gives the ledger that the command prints. A user's
mistake is a `curate.errors.UserError`, whose text is one sentence with the cure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curate import pipeline
from curate.errors import UserError, did_you_mean
from curate.pipeline import Recipe
from curate.recipe import shipped
from curate.runtime.plain_yaml import dump
from curate.runtime.reporter import Reporter, Silent
from curate.tables import KNOWN
from curate.tables.lineage import Ledger
from curate.tables.schema import Table
from curate.tables.store import Store

if TYPE_CHECKING:
    import duckdb

    from curate.runtime.frames import pl
    from curate.upgrading.upgrade import UpgradeResult

Settings = Mapping[str, Any] | Sequence[str]
"""Changes of a recipe: `{"rollout.samples.train": 4}`, or `["rollout.samples.train=4"]` as `--set` takes them."""


class Workspace:
    """A workspace on disk, to be read: its tables, the accounts of its stages, and SQL over both.

    It can be read while a stage writes to it; what was committed is seen, and nothing twice.
    """

    def __init__(self, root: str | Path, create: bool = False) -> None:
        """UserError where there is no workspace at `root`, unless `create`, or where another version wrote it."""
        self.store = Store.open(Path(root), create=create)

    @property
    def root(self) -> Path:
        """The folder that holds all tables and runs."""
        return self.store.root

    def tables(self) -> dict[str, int]:
        """Number of committed rows by table, of tables that have any."""
        return {name: self.arrow(name, list(table.key[:1])).num_rows for name, table in self.store.tables().items()}

    def arrow(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The committed rows of a table, with all of its columns or these; docs/columns.md says what they hold."""
        found = _table(table)
        if unknown := [name for name in columns or () if name not in found.schema.names]:
            raise UserError(f'Table {table} has no column "{unknown[0]}"{did_you_mean(unknown[0], found.schema.names)}')
        return self.store.read(found, columns)

    def polars(self, table: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The committed rows of a table as a polars DataFrame."""
        from curate.runtime.frames import pl

        return pl.DataFrame(self.arrow(table, columns))

    def duckdb(self) -> duckdb.DuckDBPyConnection:
        """A private DuckDB connection with a view for each table and the ledger: `.table("rollouts")` is a relation.

        It reads the tables as they are now, and no other file. Close it, or use it in `with`.
        """
        from curate.tables import catalog

        return catalog.connect(self.store)

    def sql(self, query: str) -> pl.DataFrame:
        """All rows of one SQL statement that reads, as `curate sql` takes it."""
        from curate.tables import catalog

        return catalog.query(self.store, query)

    def ledger(self) -> pl.DataFrame:
        """The accounts of every stage, one row a partition: taken = out + duplicate + rejected + failed."""
        from curate.tables import catalog

        return catalog.ledger(self.store)


def _table(name: str) -> Table:
    return KNOWN.find(name)


def load(recipe: str | Path | Recipe, settings: Settings = (), data: str | Path | None = None) -> Recipe:
    """A recipe from its YAML file, or one that comes with the package by its name; checked, with these settings.

    Paths in it are relative to its folder, or to `data`. UserError for a key or value that it cannot have.
    """
    if isinstance(recipe, Recipe):
        if settings or data is not None:
            raise UserError("This recipe is already loaded; give settings and data to `curate.load`.")
        return recipe
    return pipeline.load(shipped.find(Path(recipe)), _assignments(settings), None if data is None else Path(data))


def _assignments(settings: Settings) -> list[str]:
    if isinstance(settings, Mapping):
        return [f"{key}={dump(value).strip()}" for key, value in settings.items()]
    if isinstance(settings, str):
        raise UserError('Settings are a mapping, or a list of texts "key.path=value"; put this text into a list.')
    return list(settings)


def open_store(workspace: str | Path | Workspace, create: bool = True) -> Store:
    """The tables on disk of a workspace that is given by its folder, or that is open."""
    return workspace.store if isinstance(workspace, Workspace) else Store.open(Path(workspace), create=create)


def run_stage(
    name: str,
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: Collection[str] = (),
    reporter: Reporter | None = None,
    create: bool = True,
) -> Ledger:
    """Run one stage of a recipe, resuming where it stood."""
    loaded, store = load(recipe, settings), open_store(workspace, create)
    return pipeline.run(loaded, store, reporter or Silent(), [name], frozenset(replace))[name]


def run(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    reporter: Reporter | None = None,
) -> dict[str, Ledger]:
    """Run a recipe's whole pipeline, or what is left of it; the ledgers by stage, in their order.

    Args:
        recipe: The YAML file, the name of a recipe that comes with the package, or a recipe from `curate.load`.
        workspace: Folder that holds all tables and runs, made where there is none.
        settings: Changes of the recipe, as `--set` makes them.
        reporter: Who hears of progress and notes; nobody by default. `curate.runtime.progress.reporter()` shows bars.
    """
    return pipeline.run(load(recipe, settings), open_store(workspace), reporter or Silent())


def ingest(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: Collection[str] = (),
    data: str | Path | None = None,
    limit: int | None = None,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    shuffle: int | None = None,
    seed: int | None = None,
    sample_id: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Ledger:
    """Bring problems and images in; odd rows become rejects.

    Args:
        recipe: The YAML file, the name of a recipe that comes with the package, or a recipe from `curate.load`.
        workspace: Folder that holds all tables and runs, made where there is none.
        settings: Changes of the recipe, as `--set` makes them.
        replace: Sources whose rows are deleted first.
        data: Folder of local copies, for relative paths and dataset ids.
        limit: Only so many rows of each source.
        split: Another split than the recipe's.
        config: Another configuration of the dataset.
        revision: Revision of the dataset.
        shuffle: Take rows in random order, from a buffer of so many.
        seed: Seed of `shuffle`.
        sample_id: Only the rows of these names.
        reporter: Who hears of progress and notes; nobody by default.
    """
    changes = {
        "limit": limit, "split": split, "config": config, "revision": revision, "shuffle": shuffle, "seed": seed,
        "ids": list(sample_id) or None,
    }  # fmt: skip
    loaded = pipeline.with_sources(load(recipe, settings, data), changes)
    return run_stage("ingest", loaded, workspace, (), replace, reporter)


def dedup(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    reporter: Reporter | None = None,
) -> Ledger:
    """Drop all but one of problems that are the same; the table `drops` says which, against what, and why."""
    return run_stage("dedup", recipe, workspace, settings, (), reporter)


def decontaminate(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    reporter: Reporter | None = None,
) -> Ledger:
    """Drop training problems that the meta or test set shows, by image and by text."""
    return run_stage("decontaminate", recipe, workspace, settings, (), reporter)


def rollout(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Ledger:
    """Sample chains of thought, cut into steps and graded. With `replace` those that are there are deleted first."""
    return run_stage("rollout", recipe, workspace, settings, ["rollout"] if replace else (), reporter)


def label(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Ledger:
    """Estimate step labels by completing every prefix. With `replace` completions that are there are deleted first."""
    return run_stage("label", recipe, workspace, settings, ["label"] if replace else (), reporter)


def relabel(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    reporter: Reporter | None = None,
) -> Ledger:
    """Estimate step labels again from stored completions, by any mode that needs no more of them."""
    return pipeline.relabel(load(recipe, settings), open_store(workspace, create=False), reporter or Silent())


def judge(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Ledger:
    """Ask a language model which step of each labelled rollout is the first wrong one."""
    return run_stage("judge", recipe, workspace, settings, ["judge"] if replace else (), reporter)


def upgrade(workspace: str | Path, reporter: Reporter | None = None) -> UpgradeResult:
    """Bring a workspace of an earlier release up to date: its tables' columns, its settings, and the grades of texts.

    Nothing is generated and no row is lost. UserError for a workspace of a later release, or one that is damaged.
    """
    from curate.upgrading import upgrade as made

    return made.run(Path(workspace), reporter or Silent())


def shard(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    reporter: Reporter | None = None,
) -> Ledger:
    """Write examples for training, meta and test set."""
    return run_stage("shard", recipe, workspace, settings, (), reporter)
