"""The whole chain from one recipe: read it, resolve it, save it, run its stages in order.

A recipe has a `name`, a `seed`, and a section for each stage that it runs. Sections of other packages come through the
entry point group `curate.stages`, each a `Stage`; `prm` adds train, score, select and report. The order is that of what
they read and write.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from curate.engines.supervisor import Engines
from curate.errors import UserError, did_you_mean, redacted
from curate.models.location import locate
from curate.recipe.parsing import Config, apply_settings, read_small, read_yaml, validate
from curate.recipe.sections import (
    AnyDecontaminateConfig,
    AnyLabelConfig,
    DecontaminateConfig,
    DedupConfig,
    IngestConfig,
    JudgeConfig,
    LabelConfig,
    RolloutConfig,
    ShardConfig,
)
from curate.runtime import plain_yaml
from curate.runtime.registry import Registry
from curate.runtime.reporter import Reporter
from curate.seeds import digest
from curate.stages.order import in_order
from curate.tables.lineage import Ledger, versions
from curate.tables.store import Store, write_atomic
from curate.text import prompts


@dataclass(frozen=True)
class Context:
    """What a stage gets besides its own section."""

    workspace: Store
    recipe: Recipe
    reporter: Reporter
    engines: Engines
    replace: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stage:
    """A stage of the chain: its section's type (a class or a union of them), what runs it, and what places it.

    It comes behind every stage that writes a table it `reads`, or that it names there because what it needs of that one
    is no table. `writes` are the tables that it adds to. What does not `generate` has the machine to itself: a running
    engine is stopped before it.
    """

    name: str
    config: Any
    run: Callable[[Context, Any], Ledger]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    generates: bool = False


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe; relative paths in it are relative to `base`, prompts to `folder`, the one of its file."""

    name: str
    seed: int
    base: Path
    sections: Mapping[str, Config]
    folder: Path

    def section(self, name: str) -> Any:
        """A section; UserError when the recipe has none."""
        if name not in self.sections:
            raise UserError(f'The recipe "{self.name}" has no section "{name}"; add one.')
        return self.sections[name]

    def resolved(self) -> dict[str, Any]:
        """Everything, defaults and nulls included, as plain values."""
        sections = {name: section.model_dump(mode="json") for name, section in self.sections.items()}
        return {"name": self.name, "seed": self.seed} | sections


def _ingest(context: Context, config: IngestConfig) -> Ledger:
    from curate.stages.ingest import ingest

    return ingest.run(config, context.workspace, context.recipe.base, context.reporter, context.replace)


def _dedup(context: Context, config: DedupConfig) -> Ledger:
    from curate.stages import overlap

    return overlap.dedup(config, context.workspace)


def _decontaminate(context: Context, config: DecontaminateConfig) -> Ledger:
    from curate.stages import overlap

    return overlap.decontaminate(config, context.workspace)


def located(recipe: Recipe, workspace: Store) -> RolloutConfig:
    """The recipe's rollout section with the model's folder found and the prompt's file read, relative to the recipe."""
    config: RolloutConfig = recipe.section("rollout")
    engine = config.engine.model_copy(update={"model": locate(config.engine.model, recipe.base)})
    if engine.kind == "replay" and Path(engine.model) == workspace.root.resolve():
        raise UserError(f"The workspace {workspace.root} cannot replay itself; give another --workspace.")
    return config.model_copy(update={"engine": engine, "prompt": prompt_of(config, recipe.folder)})


def prompt_of(config: RolloutConfig | JudgeConfig, folder: Path) -> prompts.Template:
    """The section's prompt, read where it is a file; UserError when that is not there or not sound."""
    judges = isinstance(config, JudgeConfig)
    name, key = config.prompt, f"{'judge' if judges else 'rollout'}.prompt"
    if not isinstance(name, str) or not name.endswith(prompts.SUFFIX):
        return prompts.template(name, prompts.JUDGE_TEMPLATES if judges else prompts.TEMPLATES)
    try:
        data = read_small(folder / name, prompts.MAX_BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no prompt file {name} beside the recipe; check {key}.") from None
    except (OSError, ValueError) as error:
        # ValueError: no UTF-8, or a name with a zero byte.
        raise UserError(f"The prompt file {name} cannot be read ({error}); check {key}.") from None
    if len(data) > prompts.MAX_BYTES:
        raise UserError(f"The prompt file {name} is larger than {prompts.MAX_BYTES:,} bytes; check {key}.")
    return prompts.from_file(Path(name).name, text, judges)


def _rollout(context: Context, config: RolloutConfig) -> Ledger:
    from curate.stages import rollout

    return rollout.run(
        located(context.recipe, context.workspace),
        context.workspace,
        context.recipe.seed,
        context.reporter,
        context.engines,
        rollout.STAGE in context.replace,
    )


def _label(context: Context, config: LabelConfig) -> Ledger:
    from curate.stages.label import label

    policy = located(context.recipe, context.workspace)
    return label.run(
        config,
        policy,
        context.workspace,
        context.recipe.seed,
        context.reporter,
        context.engines,
        label.STAGE in context.replace,
    )


def relabel(recipe: Recipe, workspace: Store, reporter: Reporter) -> Ledger:
    """The recipe's labels from the completions that are stored; see `curate.stages.label.label.relabel`."""
    from curate.stages.label import label
    from curate.tables import catalog

    with workspace.writing():
        ledger = label.relabel(recipe.section("label"), located(recipe, workspace), workspace, reporter)
        catalog.write(workspace)
    return ledger


def _judge(context: Context, config: JudgeConfig) -> Ledger:
    from curate.stages.judge import judge

    recipe = context.recipe
    engine = config.engine.model_copy(update={"model": locate(config.engine.model, recipe.base)})
    return judge.run(
        config.model_copy(update={"engine": engine, "prompt": prompt_of(config, recipe.folder)}),
        context.workspace,
        recipe.seed,
        context.reporter,
        context.engines,
        judge.STAGE in context.replace,
    )


def _shard(context: Context, config: ShardConfig) -> Ledger:
    from curate.stages import shard

    rollout = context.recipe.sections.get("rollout")
    cut = (rollout.max_steps, rollout.min_step_characters) if isinstance(rollout, RolloutConfig) else ()
    return shard.run(config, context.workspace, context.reporter, *cut)


# What a stage asks a model about.
_ASKED = ("problems", "images", "drops")

# Of each stage: its section, what runs it, what it reads, what it writes.
STAGES: Registry[Stage] = Registry(
    "curate.stages",
    "section",
    {
        stage.name: stage
        for stage in (
            Stage("ingest", IngestConfig, _ingest, (), ("problems", "images", "rollouts", "step_labels", "rejects")),
            Stage("dedup", DedupConfig, _dedup, ("problems", "images"), ("drops",)),
            Stage("decontaminate", AnyDecontaminateConfig, _decontaminate, ("problems", "images"), ("drops",)),
            Stage("rollout", RolloutConfig, _rollout, _ASKED, ("rollouts", "rejects"), True),
            Stage("label", AnyLabelConfig, _label, (*_ASKED, "rollouts"), ("completions", "step_labels", "rejects"),
                  True),
            Stage("judge", JudgeConfig, _judge, (*_ASKED, "rollouts", "step_labels"), ("judgements", "rejects"), True),
            Stage("shard", ShardConfig, _shard, (*_ASKED, "rollouts", "completions", "step_labels", "judgements"),
                  ("examples", "rejects")),
        )
    },
    of="curate.pipeline:Stage",
)  # fmt: skip


def ordered(names: Iterable[str]) -> list[Stage]:
    """The stages of these sections in the order in which they run, by what each reads and writes."""
    chosen = set(names)
    # Where nothing else decides, stages of this table come first, and those of packages by name.
    stages = [STAGES.find(name) for name in (*STAGES.own, *sorted(chosen - STAGES.own.keys())) if name in chosen]
    return in_order(stages, STAGES)


def load(path: Path, settings: Sequence[str] = (), base: Path | None = None) -> Recipe:
    """Read and resolve a recipe; `settings` are `key.path=value` overrides. UserError for anything wrong in it.

    Relative paths are relative to `base`, the recipe's own folder when null.
    """
    tree = apply_settings(read_yaml(path), settings)
    name, seed = tree.pop("name", path.stem), tree.pop("seed", 0)
    if not isinstance(name, str) or not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f'In {path}, "name" must be a text and "seed" a whole number.')
    sections: dict[str, Config] = {}
    for key, section in tree.items():
        if key not in STAGES:
            raise UserError(f'Unknown key "{key}" in the recipe{did_you_mean(str(key), ["name", "seed", *STAGES])}')
        sections[key] = validate(STAGES.find(key).config, section if section is not None else {}, key)
    # Now, and not after an hour of other stages.
    ordered(sections)
    if base is not None and not base.is_dir():
        raise UserError(f"There is no folder {base}; check --data.")
    recipe = Recipe(name, seed, (base or path.parent).resolve(), sections, path.parent.resolve())
    for asking in sections.keys() & {"rollout", "judge"}:
        prompt_of(recipe.section(asking), recipe.folder)
    return recipe


def with_sources(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with these fields of every source set, where not null. UserError when a source has no such field."""
    given = {key: value for key, value in changes.items() if value is not None}
    if not given or "ingest" not in recipe.sections:
        return recipe
    section: IngestConfig = recipe.section("ingest")
    sources = []
    for source in section.sources:
        unknown = sorted(given.keys() - type(source).model_fields.keys())
        if unknown:
            option = {"ids": "sample-id"}.get(unknown[0], unknown[0])
            raise UserError(f'Source "{source.name}" is of kind {source.kind}, which has no --{option}; leave it out.')
        sources.append(validate(type(source), source.model_dump() | given, f"ingest.sources.{source.name}"))
    sections = {**recipe.sections, "ingest": section.model_copy(update={"sources": tuple(sources)})}
    return dataclasses.replace(recipe, sections=sections)


def save_run(recipe: Recipe, workspace: Store) -> Path:
    """`runs/<time>-<digest>/` with the resolved recipe and the versions; the stages add their counts."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = workspace.root / "runs" / f"{stamp}-{digest(recipe.resolved(), length=8)}"
    folder.mkdir(parents=True, exist_ok=True)
    written = redacted(plain_yaml.dump(recipe.resolved()))
    write_atomic(folder / "recipe.yaml", written.encode())
    facts = {
        "versions": versions(),
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    write_atomic(folder / "versions.json", redacted(json.dumps(facts, indent=1)).encode())
    return folder


def run(
    recipe: Recipe,
    workspace: Store,
    reporter: Reporter,
    only: Sequence[str] = (),
    replace: frozenset[str] = frozenset(),
    instead: Mapping[str, Stage] = MappingProxyType({}),
) -> dict[str, Ledger]:
    """Run the recipe's stages (or `only` those), in order, each resuming where it stood; their ledgers by name.

    `instead` has stages that run in place of those of their names.

    UserError when another command writes to the workspace.
    """
    from curate.tables import catalog

    missing = [name for name in only if name not in recipe.sections]
    if missing:
        recipe.section(missing[0])
    chosen = [instead.get(stage.name, stage) for stage in ordered(only or recipe.sections)]
    with workspace.writing():
        ledgers = _run_each(chosen, recipe, workspace, reporter, replace)
        catalog.write(workspace)
    return ledgers


def _run_each(
    chosen: Sequence[Stage],
    recipe: Recipe,
    workspace: Store,
    reporter: Reporter,
    replace: frozenset[str],
) -> dict[str, Ledger]:
    folder = save_run(recipe, workspace)
    ledgers: dict[str, Ledger] = {}
    with Engines(folder) as engines:
        for stage in chosen:
            if not stage.generates:
                engines.close()
            ledger = stage.run(Context(workspace, recipe, reporter, engines, replace), recipe.sections[stage.name])
            ledgers[stage.name] = ledger
            counts = {name: vars(book) for name, book in ledgers.items()}
            write_atomic(folder / "counts.json", json.dumps(counts, indent=1).encode())
            reporter.done(stage.name, ledger.line())
    return ledgers
