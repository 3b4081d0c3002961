"""Model folders that bring code: nothing of theirs runs, whatever the answer on the terminal would be."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from curate.engines import build
from curate.engines.transformers import load_processor as curate_processor
from curate.errors import UserError
from curate.models import pretrained
from curate.recipe.sections import EngineConfig
from prm.data.encode import load_processor as prm_processor
from prm.model import backbones

ROOT = Path(__file__).parents[3]


class Runs:
    """What a pickle runs when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def hostile(model: str, folder: Path, mark: Path, changes: dict, part: str = "config.json") -> str:
    """A copy of a model folder whose own file `own.py` leaves a mark when it is imported."""
    shutil.copytree(model, folder)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


OWN = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model", "AutoProcessor": "own.P"}}
LOADS = {
    "prm": lambda model: backbones.load(model, None),
    "prm-processor": lambda model: prm_processor(model, None),
    "curate-processor": lambda model: curate_processor(model, None),
    "check": lambda model: pretrained.check(model, None),
}


@pytest.fixture
def yes(monkeypatch):
    """A user who agrees to everything."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize(
    "changes",
    [OWN | {"model_type": "quite-new"}, OWN | {"architectures": ["QuiteNewForRewards"]}],
    ids=["a type of its own", "a class of its own"],
)
def test_a_model_that_needs_its_own_code_is_refused_in_a_sentence(tiny_model, tmp_path, yes, load, changes):
    model = hostile(tiny_model, tmp_path / "model", tmp_path / "mark", changes)
    with pytest.raises(UserError, match="needs its own Python code") as caught:
        load(model)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


def test_a_tokenizer_that_needs_its_own_code_is_refused(tiny_model, tmp_path, yes):
    config = {"auto_map": {"AutoTokenizer": ["own.T", None]}, "tokenizer_class": "OwnTokenizer"}
    model = hostile(tiny_model, tmp_path / "model", tmp_path / "mark", config, "tokenizer_config.json")
    for load in (prm_processor, curate_processor):
        try:
            load(model, None)
        except UserError as error:
            assert "\n" not in str(error)
        assert not (tmp_path / "mark").exists()


def test_classes_that_transformers_has_are_used_and_the_folder_s_own_are_not(tiny_model, tmp_path, yes):
    model = hostile(tiny_model, tmp_path / "model", tmp_path / "mark", OWN)
    assert type(backbones.load(model, None)).__module__.startswith("transformers.")
    assert type(prm_processor(model, None)).__module__.startswith("transformers.")
    assert not (tmp_path / "mark").exists()


def test_weights_in_a_pickle_are_not_opened(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(tmp_path / "mark")))
    for load in (lambda: backbones.load(str(folder), None), lambda: pretrained.check(str(folder), None)):
        with pytest.raises(UserError, match=r"pytorch_model\.bin.*convert them to safetensors"):
            load()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="convert them to safetensors"):
        backbones.load(str(folder), None)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_attention_is_not_downloaded(tiny_model, tmp_path, name):
    model = hostile(tiny_model, tmp_path / "model", tmp_path / "mark", {name: "somebody/kernel"})
    with pytest.raises(UserError, match="a program to download"):
        pretrained.check(model, None)
    with pytest.raises(UserError, match="a program to download"):
        build(EngineConfig(kind="transformers", model=tiny_model, args={"attn_implementation": "somebody/kernel@v1"}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trust_remote_code": True}, "must stay false"),
        ({"trust_remote_code": "yes"}, "must stay false"),
        ({"speculative_config": {"model": "x", "trust_remote_code": True}}, "must stay false"),
        ({"worker_cls": "somebody.Worker"}, "names code to run"),
        ({"kv_transfer_config": {"kv_connector_module_path": "x"}}, "names code to run"),
        ({"logits_processors": ["os:system"]}, "names code to run"),
        ({"load_format": "auto"}, "can open pickles"),
        ({"load_format": "pt"}, "can open pickles"),
        ({"model": "elsewhere"}, r"Set engine\.model"),
    ],
)
def test_engine_arguments_that_would_run_code_are_refused(tiny_model, arguments, words):
    with pytest.raises(UserError, match=words):
        build(EngineConfig(kind="vllm", model=tiny_model, args=arguments))


def test_harmless_engine_arguments_pass():
    pretrained.check_arguments({"trust_remote_code": False, "load_format": "dummy", "worker_cls": None, "seed": 1})


def test_models_are_loaded_in_one_place_only():
    found = []
    for path in [*(ROOT / "curate").rglob("*.py"), *(ROOT / "prm").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
            if called == "from_pretrained" or (
                called == "load" and ast.unparse(node.func) in ("torch.load", "pickle.load")
            ):
                found.append(path.relative_to(ROOT).as_posix())
    assert found == ["curate/models/pretrained.py"]
