"""Training from a model's id on a hub, with the real clients, is training from its folder."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from hub_server import TOKEN, HubServer
from safetensors.torch import load_file
from train_testbed import train_config

from curate.errors import ExitCode
from prm.model.saved import model_folder
from prm.training import train

SETTINGS = {
    "steps": 2,
    "rows_per_domain": 2,
    "seeds": 1,
    "null_runs": 0,
    "upper": {"meta_rows": 2, "unroll": 1, "warmup": 1},
}


def weights(workspace) -> dict[str, object]:
    """The weights that a run left."""
    (file,) = model_folder(workspace, "seed-0").glob("model.safetensors")
    return load_file(file)


def test_a_model_by_its_id(tiny_model, make_workspace, tmp_path):
    files = {path.name: path.read_bytes() for path in Path(tiny_model).iterdir()}
    there, here = make_workspace("there"), make_workspace("here")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"train": {"model": "them/tiny", **SETTINGS}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    with HubServer() as hub:
        hub.add("models", "them/tiny", files, private=True)
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN,
                        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        command = [sys.executable, "-m", "prm", "train", tmp_path / "r.yaml", "-w", there.root]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == ExitCode.DONE, done.stderr[-3000:]
        assert hub.unknown == []
        assert any(asked.endswith("model.safetensors") for asked in hub.asked)
    train.run(train_config(model=tiny_model, **SETTINGS), here, 0)
    assert weights(there).keys() == weights(here).keys()
    for name, values in weights(here).items():
        assert (values == weights(there)[name]).all(), name
