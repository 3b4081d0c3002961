"""Workspaces with a trained PRM, its export, and the code of its model card run as a reader would."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from family_testbed import READING
from PIL import Image
from prm_testbed import example_rows, fill
from safetensors.torch import load_file, save_file
from train_testbed import train_config

from curate.tables.schema import EXAMPLES, IMAGES, STEP_SCORES
from curate.tables.store import Store
from prm.model.reward_model import HEAD_FILE
from prm.model.saved import model_folder, read_card, write_card
from prm.scoring import score
from prm.training import train


def trained(
    root: Path, model: str, family: str = "qwen2_vl", test: int = 5, longer: float = 20.0, **settings: Any
) -> Store:
    """A workspace with one run, trained for two steps, and `prm score`'s scores of `test` examples."""
    workspace = Store.open(root)
    for role, count in (("train", 4), ("test", test)):
        rows, images = example_rows(count, role, ("a", "b"))
        if family in READING:
            rows, images = [row | {"image_hashes": []} for row in rows], []
        fill(workspace, role, rows, images)
    config = train_config(
        model=model, seeds=1, steps=2, rows_per_domain=2, lr=1e-3, max_length=600, mode="uniform", head="scalar",
        **settings,
    )  # fmt: skip
    train.run(config, workspace, 3)
    # Two steps leave all scores near a half; a longer row spreads them.
    head = model_folder(workspace, "seed-0") / HEAD_FILE
    save_file({name: longer * value for name, value in load_file(head).items()}, head)
    write_card(head.parent, read_card(head.parent))
    score.run(workspace, batch_rows=1)
    return workspace


def scored_rows(workspace: Store, run: str = "seed-0") -> list[dict[str, Any]]:
    """Test examples with `images` (original bytes) and the scores that `prm score` gave them (`scores`)."""
    images = {row["image_hash"]: row["bytes"] for row in workspace.read(IMAGES).to_pylist()}
    table = workspace.read(STEP_SCORES).to_pylist()
    found = {(row["rollout_id"], row["step_index"]): row["score"] for row in table if row["run"] == run}
    return [
        row
        | {"pictures": [images[key] for key in row["image_hashes"]]}
        | {"scores": [found[row["rollout_id"], index] for index in range(len(row["steps"]))]}
        for row in workspace.read(EXAMPLES).to_pylist()
        if row["role"] == "test"
    ]


def card_code(folder: Path, vllm: bool = False) -> dict[str, Any]:
    """What the code of the model card in this folder defines, run as it stands but for the folder's place."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert len(blocks) == 3
    code = blocks[0].replace('folder = "."', f"folder = {str(folder)!r}") + blocks[2 if vllm else 1]
    namespace: dict[str, Any] = {}
    # The last lines are a call with placeholders.
    exec(compile(code.partition("\nprint(")[0], str(folder / "README.md"), "exec"), namespace)
    return namespace


def card_scores(scores: Any, row: dict[str, Any]) -> list[float]:
    """What that code's `step_scores` gives a row."""
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in row["pictures"]]
    return scores(row["question"], images, row["steps"])
