"""The card of an export, README.md: where every row comes from, how it was made, and what its fields mean. Pure.

Its head is the metadata that the hub reads (huggingface_hub: `DatasetCardData`); names of its keys are the hub's.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curate.exports import licences
from curate.exports.base import CardLayout
from curate.exports.facts import LedgerLine, Provenance, StageRecord
from curate.exports.report import ExportReport
from curate.runtime import plain_yaml
from curate.tables.schema import GIVEN
from curate.tables.store import MAIN

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
# What a table of the card has of a source's section besides its licence and revision.
_PLACES = ("dataset", "path", "task", "adapter")


def text(name: str, report: ExportReport, layout: CardLayout, facts: Provenance) -> str:
    """The whole file."""
    parts = [
        f"---\n{plain_yaml.dump(head(report, layout), allow_unicode=True)}---\n",
        f"# {cell(name)}\n",
        f"Chains of thought with{'' if report.labels else 'out'} step labels, for process reward models; made with "
        f"curate-prm, exported in the format `{report.format}`.\n",
        f"## Load\n\n{fenced(layout.loading.replace('{folder}', name), 'python')}",
        _sources(report, facts),
        _models(report, facts),
        _labels(report, facts),
        _clean(facts),
        _accounts(report, facts),
        "## Fields\n",
        table(("field", "meaning"), ((f"`{field}`", meaning) for field, meaning in layout.fields.items()), plain=True),
        "## Notes\n\n" + "\n".join(f"- {note}" for note in layout.notes) + "\n" if layout.notes else "",
        _again(report, facts),
    ]
    return "\n".join(part for part in parts if part)


def head(report: ExportReport, layout: CardLayout) -> dict[str, Any]:
    """The metadata for the hub."""
    names = {use.licence for use in report.sources}
    found: dict[str, Any] = {"license": licences.on_the_hub(names)}
    if found["license"] == "other":
        found["license_name"] = "see-the-table-of-sources"
    rows = report.rollouts.out
    found["tags"] = ["process-reward-model", "chain-of-thought", "curate-prm"]
    found["size_categories"] = [next((size for maximum, size in _SIZES if rows < maximum), "1B<n<10B")]
    if layout.data_files:
        files = [{"split": split, "path": path} for split, path in layout.data_files.items()]
        found["configs"] = [{"config_name": "default", "data_files": files}]
    if layout.features:
        found["dataset_info"] = {"features": list(layout.features)}
    return found


def cell(value: object) -> str:
    """A value inside a line of Markdown: no markup of its own, no end of the line or of the cell."""
    if value is None:
        return ""
    plain = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", plain)


def table(names: Sequence[str], rows: Iterable[Sequence[object]], plain: bool = False) -> str:
    """A table; `plain` cells are our own and may have markup."""
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(str(each) if plain else cell(each) for each in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def fenced(block: str, language: str) -> str:
    """A block of code, whatever stands in it."""
    longest = max((len(found) for found in re.findall(r"`+", block)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{block.rstrip()}\n{fence}\n"


def _sources(report: ExportReport, facts: Provenance) -> str:
    rows = []
    for use in report.sources:
        config = facts.sources.get(use.source, {})
        place = next((config[key] for key in _PLACES if config.get(key)), None)
        defect = f", with a planted defect: {config['defect']}" if config.get("defect") else ""
        kind = f"{config.get('kind', 'unknown')}{defect}"
        rows.append((use.source, kind, place, use.revision, use.licence or "none stated", use.rows))
    parts = ["## Sources\n", table(("source", "kind", "data", "revision", "licence", "rows"), rows)]
    if report.concerns:
        listed = "\n".join(f"- {cell(use.line())}" for use in report.concerns)
        parts.append(f"**Look at these licences before you hand the data on.**\n\n{listed}\n")
    return "\n".join(parts)


def _models(report: ExportReport, facts: Provenance) -> str:
    """Who wrote the chains, and the completions that the labels are made of."""
    rows = [_writer("chains", one.partition, one.rows, one.model, facts.rollouts.get(one.partition))
            for one in report.chains]  # fmt: skip
    rows += [_writer("completions", each.partition, None, each.config.get("model"), each)
             for each in facts.completions]  # fmt: skip
    names = ("wrote", "part", "rows", "model", "revision", "engine", "prompt", "sampling", "seed")
    return "## Models\n\n" + table(names, rows)


def _writer(
    what: str, part: str, count: int | None, model: str | None, record: StageRecord | None
) -> tuple[object, ...]:
    """A line of the table of models; how a given chain was sampled is not known here."""
    config, versions = (record.config, record.versions) if record and part == MAIN else ({}, {})
    how = ", ".join(f"{name} {versions[name]}" for name in ("vllm", "server", "transformers") if name in versions)
    if part != MAIN:
        # Chains that a source brings have no record of their own beside the source's.
        how = "imported" if record else "came with the source"
    return (what, part, count, model or "not stated", versions.get("model"), how, config.get("prompt"),
            _flat(config.get("sampling")), config.get("seed"))  # fmt: skip


def _flat(tree: Any) -> str | None:
    if not isinstance(tree, Mapping):
        return None if tree is None else str(tree)
    return ", ".join(f"{key} {value}" for key, value in tree.items() if value is not None)


def _labels(report: ExportReport, facts: Provenance) -> str:
    if not report.labels:
        return "## Labels\n\nThere are no step labels.\n"
    settings = {record.config.get("mode"): _flat(record.config) for record in facts.labels}
    settings[GIVEN] = "came with the chains"
    rows = ((mode, f"{steps:,}", settings.get(mode)) for mode, steps in report.labels.items())
    return "## Labels\n\n" + table(("mode", "steps", "settings"), rows)


def _clean(facts: Provenance) -> str:
    """Near duplicates, and training problems that the meta or test set shows."""
    done = {record.stage: record for record in facts.drops}
    lines = []
    for stage, what in (("dedup", "near duplicates"), ("decontaminate", "training problems shown by meta or test set")):
        record = done.get(stage)
        if record is None:
            lines.append(f"- {stage}, for {what}: not run.")
            continue
        lines.append(f"- {stage}, for {what}: {facts.dropped.get(stage, 0):,} problems of these domains and roles were "
                     f"dropped ({cell(_flat(record.config))}).")  # fmt: skip
    return (
        "## Decontamination\n\nTrain, meta and test set share no problem and no image, byte for byte.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _accounts(report: ExportReport, facts: Provenance) -> str:
    shares = ", ".join(f"{count:,} {role}" for role, count in report.splits.items())
    return (
        f"## Accounts\n\nThis export: {cell(report.rollouts.line())}; {cell(report.steps.line())}. Rows: {shares}.\n\n"
        "The sources and stages that it was made from, of which it may be a part (in = out + duplicate + rejected + "
        "failed):\n\n" + table(("stage", "table", "partition", "in", *LedgerLine._fields[4:]), facts.ledger)
    )


def _again(report: ExportReport, facts: Provenance) -> str:
    """How to make it again."""
    chosen = "".join(
        f" --{name} {each}"
        for name, value in report.options.items()
        for each in (value if isinstance(value, list) else ["FILE"] if name == "system" else [value])
    )
    command = f"curate export {report.format} FOLDER --workspace WORK{chosen}"
    versions = ", ".join(f"{package} {' and '.join(found)}" for package, found in facts.versions.items())
    parts = [f"## Make it again\n\nMade with {cell(versions)}.\n"]
    if facts.recipe is not None:
        parts.append(fenced(f"curate run recipe.yaml --workspace WORK\n{command}", "sh"))
        parts.append("Of the resolved recipe of the last run, what this export came from (`recipe.yaml`):\n\n"
                     f"{fenced(facts.recipe, 'yaml')}")  # fmt: skip
        if facts.commands:
            parts.append(f"Commands that made it, in order:\n\n{fenced(chr(10).join(facts.commands), 'sh')}")
    else:
        parts.append(fenced(command, "sh"))
    return "\n".join(parts)
