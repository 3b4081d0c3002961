"""Commands that run stages of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curate.cli import options
from curate.errors import UserError, printable

if TYPE_CHECKING:
    from curate.pipeline import Recipe


def _run(
    name: str,
    recipe: Path,
    workspace: Path,
    settings: Sequence[str] | None,
    as_json: bool,
    replace: bool = False,
) -> None:
    """One stage of a recipe; `replace` deletes its rows first."""
    from curate import api
    from curate.runtime import progress

    again = [name] if replace else []
    ledger = api.run_stage(name, recipe, workspace, settings or (), again, progress.reporter(as_json))
    if as_json:
        typer.echo(json.dumps({name: vars(ledger)}))


def _shared_out(replace: Sequence[str], recipes: Sequence[Recipe]) -> list[list[str]]:
    """Which sources each recipe starts over; what none of them has is the first one's to refuse."""
    owned = [{source.name for source in recipe.section("ingest").sources} for recipe in recipes]
    shares = [[name for name in replace if name in names] for names in owned]
    shares[0] += [name for name in replace if not any(name in names for names in owned)]
    return shares


def ingest(
    recipes: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECIPE...", help="Recipes: YAML files, or names that `curate recipes` lists.", show_default=False
        ),
    ],
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            "--replace", metavar="SOURCE", help="Delete the rows of this source and read it again; may be repeated."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with local copies of the data, for relative paths and hub ids.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows per source.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset, in place of the recipe's.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of the dataset, in place of the recipe's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the dataset, in place of the recipe's.")] = None,
    shuffle: Annotated[
        int | None, typer.Option(metavar="BUFFER", help="Read rows in random order, from a buffer of this many rows.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of --shuffle.")] = None,
    sample_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Read only the row with this id; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the first row and its prompt, and write nothing.")
    ] = False,
) -> None:
    """Read sources into problems and images.

    A row that cannot be used becomes a reject, which names the row and the reason.
    """
    from curate import api, pipeline
    from curate.inspect import preview
    from curate.runtime import progress

    changes = {
        "limit": limit, "split": split, "config": config, "revision": revision, "shuffle": shuffle, "seed": seed,
        "ids": sample_id or None,
    }  # fmt: skip
    loaded = [pipeline.with_sources(api.load(recipe, settings or (), data), changes) for recipe in recipes]
    shares = _shared_out(replace or (), loaded)
    if dry_run:
        for one in loaded:
            for text in preview.texts(one):
                typer.echo(printable(text))
        return
    place, reporter = api.Workspace(workspace, create=True), progress.reporter(as_json)
    with place.store.writing():
        ledgers = [
            api.run_stage("ingest", one, place, replace=share, reporter=reporter)
            for one, share in zip(loaded, shares, strict=True)
        ]
    if as_json:
        plain = [{"ingest": vars(ledger)} for ledger in ledgers]
        typer.echo(json.dumps(plain[0] if len(plain) == 1 else plain))


def dedup(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Drop near duplicates, so that one of each problem stays.

    Nothing is deleted: the table drops lists each dropped problem with the problem that stays and the reason. The same
    problem with another gold answer is listed as a contradiction.
    """
    _run("dedup", recipe, workspace, settings, as_json)


def decontaminate(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Drop training problems that the meta or test set contains.

    Images and texts are compared. Nothing is deleted: the table drops lists each dropped problem with the problem that
    it overlaps with.
    """
    _run("decontaminate", recipe, workspace, settings, as_json)


def rollout(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: options.Replace = False,
    model: options.Model = None,
    engine: options.Engine = None,
    samples: options.Samples = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    limit: options.Limit = None,
    domain: options.Domain = None,
    url: options.Url = None,
    engine_arg: options.EngineArg = None,
    tp: options.TensorParallel = None,
    gpu_memory_utilization: options.GpuMemory = None,
    max_model_len: options.MaxModelLen = None,
    max_pixels: options.MaxPixels = None,
    dry_run: options.DryRun = False,
) -> None:
    """Sample chains of thought; cut and grade them.

    Most options are short forms of --set for keys of the recipe's section rollout.
    """
    from curate import api
    from curate.inspect import preview

    given = {
        "model": model, "engine": engine, "samples": samples, "temperature": temperature, "top-p": top_p,
        "max-tokens": max_tokens, "seed": seed, "limit": limit, "domain": domain, "url": url, "tp": tp,
        "gpu-memory-utilization": gpu_memory_utilization, "max-model-len": max_model_len, "max-pixels": max_pixels,
    }  # fmt: skip
    changed = options.as_settings(given, engine_arg or (), settings or ())
    if not dry_run:
        _run("rollout", recipe, workspace, changed, as_json, replace)
        return
    if replace or as_json:
        raise UserError(f"--{'replace' if replace else 'json'} has no effect with --dry-run; leave one of them out.")
    for text in preview.rollouts(api.load(recipe, changed), api.Workspace(workspace).store):
        typer.echo(printable(text))


Mode = Annotated[str | None, typer.Option(help="How labels are estimated: pooled, exact, hard or legacy.")]
Completions = Annotated[int | None, typer.Option(min=1, help="Completions per step (modes exact, hard and legacy).")]


def label(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: options.Replace = False,
    mode: Mode = None,
    completions: Completions = None,
    mean_completions: Annotated[
        float | None, typer.Option(help="Mean number of completions per step (mode pooled).", show_default=False)
    ] = None,
    budget_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens to spend on all completions, in place of a mean number (mode pooled).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Estimate step labels from sampled completions."""
    changes = {
        "mode": mode, "completions": completions, "mean_completions": mean_completions, "budget_tokens": budget_tokens,
    }  # fmt: skip
    _run("label", recipe, workspace, _label_settings(changes, settings), as_json, replace)


def _label_settings(changes: Mapping[str, object], settings: list[str] | None) -> list[str]:
    """Options that were given, as settings; another mode leaves behind what the recipe says for its own."""
    of_modes = ("completions", "mean_completions", "max_completions", "budget_tokens")
    cleared = [f"label.{key}=null" for key in of_modes] if changes["mode"] else []
    if changes.get("budget_tokens"):
        cleared.append("label.mean_completions=null")
    given = [f"label.{key}={value}" for key, value in changes.items() if value is not None]
    return [*cleared, *given, *(settings or ())]


def relabel(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    mode: Mode = None,
    completions: Completions = None,
) -> None:
    """Estimate step labels again from stored completions.

    Any mode is possible that needs no more completions than are stored; nothing is generated. Run `curate shard`
    afterwards to use the new labels.
    """
    from curate import api
    from curate.runtime import progress

    changes = _label_settings({"mode": mode, "completions": completions}, settings)
    ledger = api.relabel(recipe, workspace, changes, progress.reporter(as_json))
    typer.echo(json.dumps({"relabel": vars(ledger)}) if as_json else f"relabel: {ledger.line()}")


def judge(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
    replace: options.Replace = False,
) -> None:
    """Ask a language model for the first wrong steps.

    This is a second opinion on labelled rollouts, set by the recipe's section judge. `shard.consensus` removes labels
    from training that it disagrees with.
    """
    _run("judge", recipe, workspace, settings, as_json, replace)


def shard(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Write training, meta and test examples."""
    _run("shard", recipe, workspace, settings, as_json)


def run(
    recipe: options.Recipe,
    workspace: options.Workspace = options.WORKSPACE,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> None:
    """Run all stages of a recipe, or what is left of them.

    The same command again resumes where it was stopped and skips finished work.
    """
    from curate import api
    from curate.runtime import progress

    ledgers = api.run(recipe, workspace, settings or (), progress.reporter(as_json))
    if as_json:
        typer.echo(json.dumps({name: vars(ledger) for name, ledger in ledgers.items()}))


COMMANDS: dict[str, Callable[..., None]] = {
    "ingest": ingest,
    "dedup": dedup,
    "decontaminate": decontaminate,
    "rollout": rollout,
    "label": label,
    "relabel": relabel,
    "judge": judge,
    "shard": shard,
    "run": run,
}
