"""`prm export`: a trained PRM as a folder that transformers' Auto classes load and vLLM serves, with a model card.

<folder>/  model.safetensors config.json ...  prm.json (how to read scores)  README.md (the model card)

The head is one bias-free row, stored where vLLM looks for it (0.32, `model_executor/models/adapters.py`:
`as_seq_cls_model` hangs `score` on the model that it converts). For a vision-language model that is the language model
inside where vLLM builds this by its registered name (its `qwen2_vl.py`, `qwen2_5_vl.py`, `interns1.py`), and the whole
where it does not (`qwen3_vl.py`). transformers 5.19 has token classifiers for text-only models, and none for these
families: a model with images keeps its class and its language-model head, and the row lies in a file of its own.
vLLM reads every safetensors file of a folder, or those of its index where there is one (its `weight_utils.py`,
`filter_duplicate_safetensors_files`), and transformers the model's alone.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from curate.errors import UserError
from curate.tables.store import Store, write_atomic
from prm.data.encode import load_processor
from prm.model.aggregate import aggregation
from prm.model.backbones import as_classifier
from prm.model.digests import CARD
from prm.model.reward_model import HEAD_FILE, Prm
from prm.model.saved import Card, model_folder, read_card, write_card
from prm.scoring.score import trained_runs
from prm.serving import card as model_card

SCHEMA = "curate-prm/reading/1"
DTYPES = ("float32", "bfloat16")
# Of one file of weights at most, transformers' own default.
_SHARD = "50GB"
# What vLLM takes for a class with one label, whose score it makes by a sigmoid (its `pooler/activations.py`).
_LABELS = {0: "right"}
# Where the row lies in models with images, by family.
_PLACES = {
    "qwen2_vl": "language_model.",
    "qwen2_5_vl": "language_model.",
    "internvl": "language_model.",
    "qwen3_vl": "",
}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, its architecture, and the name of the head's row among the weights."""

    folder: Path
    architecture: str
    head: str
    dtype: str


def run(
    workspace: Store, name: str, folder: Path, dtype: str = "float32", licence: str = "other", over: bool = False
) -> Exported:
    """Export the PRM of a run. UserError when there is none, it cannot be read elsewhere, or the folder is taken by
    something that is no export, or by one while `over` is off.
    """
    if dtype not in DTYPES:
        raise UserError(f"There is no --dtype {dtype}; choose one of: {', '.join(DTYPES)}.")
    source = _source(workspace, name)
    card = read_card(source)
    if card.suffix is not None:
        raise UserError(
            f"{name} was trained with train.read: branch: it reads each step in a side branch, which neither "
            "vLLM nor an Auto class supports; train with read: step-end, or serve it with `prm serve`."
        )
    folder = folder.resolve()
    _check_place(folder, source, over)
    prm = Prm.load(str(source))
    whole, head = _servable(prm)
    architecture = type(whole).__name__
    public = replace(card, config=model_card.public(card.config), reading=_reading(architecture, head, card))
    text = model_card.render(workspace, public, dtype, licence, prm.backbone.sees)
    # Beside its place, so that a folder of that name is always whole, and an old one stays until the new one is.
    made = folder.parent / f".{folder.name}.export"
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        _save(whole, prm.score.weight.detach().clone(), head, made, getattr(torch, dtype))
        load_processor(str(source), None).save_pretrained(made)
        write_atomic(made / "README.md", text.encode("utf-8", "replace"))
        write_card(made, public)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The PRM cannot be written to {folder} ({error}); free some space and run again.") from None
    return Exported(folder, architecture, head, dtype)


def _source(workspace: Store, name: str) -> Path:
    runs = trained_runs(workspace)
    if name not in runs:
        known = f"there are {', '.join(runs)}" if runs else "run `prm train` first"
        raise UserError(f'There is no trained PRM "{name}" in the workspace; {known}.')
    return model_folder(workspace, name)


def _servable(prm: Prm) -> tuple[Any, str]:
    """The model to save and the name of the head's row in it; UserError for families where that is not known."""
    if not prm.backbone.sees:
        return as_classifier(prm.causal, prm.score), "score.weight"
    kind = prm.backbone.kind
    if kind not in _PLACES:
        raise UserError(
            f"It is not known where vLLM looks for the head of a {kind}; serve this PRM with `prm serve`, or train on "
            f"one of {', '.join(_PLACES)}."
        )
    return prm.causal, f"{_PLACES[kind]}score.weight"


def _check_place(folder: Path, source: Path, over: bool) -> None:
    """UserError when something is in the way that may not be deleted."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if folder == source.resolve():
        raise UserError(f"{folder} is the run's own folder; export to another one.")
    if not over:
        raise UserError(f"{folder} already exists; give another folder, or --replace.")
    if not (folder / CARD).is_file() or read_card(folder).reading is None:
        raise UserError(
            f"{folder} is not an export, so --replace does not delete it; delete it, or give another folder."
        )


def _save(whole: Any, row: Any, name: str, folder: Path, dtype: Any) -> None:
    """Weights and configuration."""
    whole.to(dtype)
    # vLLM asks the whole for the number of labels, or the language model's part, which is a class of its own there.
    for config in (whole.config, whole.config.get_text_config()):
        config.id2label, config.label2id = dict(_LABELS), {label: index for index, label in _LABELS.items()}
    # A few kilobytes; vLLM holds a pooling model's head in float32 in any case.
    head, state = {name: row.float().contiguous()}, whole.state_dict()
    whole.save_pretrained(folder, state_dict=state | head if name in state else state, max_shard_size=_SHARD)
    if name not in state:
        # Not among the model's own weights, whose names some families change when they are saved.
        save_file(head, folder / HEAD_FILE, {"format": "pt"})
        _enter(folder / "model.safetensors.index.json", name)


def _enter(index: Path, name: str) -> None:
    """Name the head's file in the index of a model that is cut into several files."""
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"][name] = HEAD_FILE
        write_atomic(index, json.dumps(content, indent=2, sort_keys=True).encode())


def _reading(architecture: str, head: str, card: Card) -> dict[str, Any]:
    """How any client gets the scores, beside the card's own `instruction`, `max_length` and `aggregation`."""
    return {
        "schema": SCHEMA,
        "architecture": architecture,
        "head": {"weight": head, "bias": False, "input": "last hidden state", "activation": "sigmoid"},
        "turns": "one user turn, then the open assistant turn, by the chat template with its generation prompt",
        "user": "the images, then the instruction, a line break, the question (without marks such as <image1>, which "
        "read image 1 inside a sentence), and each choice on a line of its own as (A) ...",
        "images": "upright by their EXIF orientation, transparency on white, RGB",
        "assistant": "each step tokenised by itself without special tokens, the ids one after the other; white space "
        "at the end of a step goes to the front of the next one, that of the last step is dropped",
        "read": "the last token of each step; a step without text has none, and no score"
        + ("; only the last step's was trained" if card.of_outcomes else ""),
        "step score": "sigmoid(weight . hidden state), in (0, 1)",
        "rollout score": aggregation(card.aggregation).formula,
        "too long": f"more than {card.max_length} tokens with those of the images: no scores, nothing is cut off",
    }
