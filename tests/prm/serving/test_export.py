"""`prm export`: what transformers and vLLM make of the folder, by the code of its model card, equals `prm score`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import serving_bench
import torch
import yaml
from family_testbed import READING, SEEING
from huggingface_hub import ModelCard
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForTokenClassification,
    FalconConfig,
)
from typer.testing import CliRunner

from curate.errors import UserError
from curate.tables.schema import STEP_SCORES
from curate.tables.store import Store
from prm.cli.app import app
from prm.config import LoraConfig
from prm.data.encode import load_processor
from prm.model import aggregate, digests
from prm.model.backbones import as_classifier
from prm.model.reward_model import HEAD_FILE, Prm
from prm.model.saved import model_folder, read_card
from prm.scoring import score
from prm.serving import export

ROOT = Path(__file__).parents[3]
# The same in one process; on a CPU a compiled model takes longer to start than it saves.
VLLM = """
import json, os, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
from curate.models import torch_companions
torch_companions.mend()
import serving_bench, vllm
from curate.tables.store import Store
plain = vllm.LLM
vllm.LLM = lambda *given, **named: plain(*given, enforce_eager=True, **named)
found = {}
for folder, root in json.loads(sys.argv[2]):
    rows = serving_bench.scored_rows(Store.open(Path(root)))
    scores = serving_bench.card_code(Path(folder), vllm=True)["step_scores"]
    found[folder] = [serving_bench.card_scores(scores, row) for row in rows]
Path(sys.argv[3]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def workspace(tiny_model, tmp_path_factory):
    return serving_bench.trained(tmp_path_factory.mktemp("exporting"), tiny_model)


def furthest(scores: list[list[float]], rows: list[dict]) -> float:
    """The largest difference to the scores of `prm score`."""
    pairs = [pair for one, row in zip(scores, rows, strict=True) for pair in zip(one, row["scores"], strict=True)]
    return max(abs(one - other) for one, other in pairs)


def by_card(folder: Path, rows: list[dict]) -> list[list[float]]:
    code = serving_bench.card_code(folder)
    return [serving_bench.card_scores(code["step_scores"], row) for row in rows]


def scored_again(folder: Path, workspace: Store) -> list[float]:
    """Scores by an exported folder in place of the run's own, in the order of the table."""
    prm, encoder = score.load_prm(folder, {})
    examples = score.read_examples(workspace, ("test",))
    rows = score.score_examples(prm, encoder.of(score.read_images(workspace, examples), 64), examples, "x", 1)
    return [row.score for row in sorted(rows, key=lambda row: (row.rollout_id, row.step_index))]


def stored(workspace: Store) -> list[float]:
    rows = workspace.read(STEP_SCORES).to_pylist()
    return [row["score"] for row in sorted(rows, key=lambda row: (row["rollout_id"], row["step_index"]))]


@pytest.mark.parametrize("family", [*SEEING, *READING])
def test_transformers_gives_the_scores_of_every_family(folders, family, tmp_path):
    place = serving_bench.trained(tmp_path / "w", folders(family), family, test=3)
    made, rows = export.run(place, "seed-0", tmp_path / "out"), serving_bench.scored_rows(place)
    assert furthest(by_card(made.folder, rows), rows) < 1e-6
    assert scored_again(made.folder, place) == stored(place)
    config = AutoConfig.from_pretrained(made.folder)
    assert (config.num_labels, config.get_text_config().num_labels, config.architectures) == (1, 1, [made.architecture])
    kind = AutoModelForTokenClassification if family in READING else AutoModelForImageTextToText
    _, told = kind.from_pretrained(made.folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert not list(made.folder.glob("*.bin")) and not list(made.folder.glob("*.py"))


def test_bfloat16_is_half_the_size_and_near(workspace, tmp_path):
    whole, half = (export.run(workspace, "seed-0", tmp_path / dtype, dtype) for dtype in export.DTYPES)
    sizes = [(made.folder / "model.safetensors").stat().st_size for made in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    rows = serving_bench.scored_rows(workspace)
    assert 1e-6 < furthest(by_card(half.folder, rows), rows) < 0.02
    heads = [Prm.load(str(made.folder)).score.weight for made in (whole, half)]
    assert torch.equal(*heads)


def test_the_embedded_backbone_with_a_head(tmp_path):
    """A label token's head as it starts, on the demo's own weights."""
    place = serving_bench.trained(
        tmp_path / "w", str(ROOT / "data/demo/backbone"), test=4, longer=1.0, lora=LoraConfig(rank=2)
    )
    made, rows = export.run(place, "seed-0", tmp_path / "out"), serving_bench.scored_rows(place)
    assert furthest(by_card(made.folder, rows), rows) < 1e-6
    assert scored_again(made.folder, place) == stored(place)


def test_a_model_in_several_files_has_its_head_in_the_index(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_SHARD", "100KB")
    made, rows = export.run(workspace, "seed-0", tmp_path / "out"), serving_bench.scored_rows(workspace)
    index = json.loads((made.folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert index[made.head] == HEAD_FILE and len(set(index.values())) > 2
    assert furthest(by_card(made.folder, rows), rows) < 1e-6
    assert scored_again(made.folder, workspace) == stored(workspace)


def test_the_model_card_and_the_reading(workspace, tiny_model, tmp_path):
    made = export.run(workspace, "seed-0", tmp_path / "out", licence="apache-2.0")
    card = ModelCard.load(made.folder / "README.md")
    assert card.data.license == "apache-2.0" and "process-reward-model" in card.data.tags
    assert card.data.base_model is None and card.data.datasets is None
    for words in (
        "seed 3",
        "mode `uniform`",
        "| a | 1.000 | 2 | 10 |",
        "4 train",
        "Check each step.",
        "transformers 5",
    ):
        assert words in card.text, words
    # The machine's own places are nobody's business.
    for path in made.folder.glob("*.*"):
        if path.suffix in (".json", ".md"):
            assert str(workspace.root.parent) not in path.read_text(), path
            assert str(Path(tiny_model).parent) not in path.read_text(), path
    content = read_card(made.folder)
    assert content.config["model"] == Path(tiny_model).name
    assert content.reading["head"]["weight"] == made.head
    assert (
        content.reading["rollout score"]
        == aggregate.aggregation("mean-log-odds").formula
        == "sigmoid(mean(log(s / (1 - s))))"
    )


def test_the_card_names_hub_sources_accounts_and_null_controls(workspace, tmp_path):
    from curate.tables import lineage
    from curate.tables.lineage import Ledger
    from curate.tables.schema import PROBLEMS, ROLLOUTS, UPDATES
    from prm.serving import card

    # Two brought no problem that the run saw; of the third another id was read than the first that is named.
    for part, name, read in (("unused", "x/one", None), ("empty", "x/two", None), ("train", "x/gone", "x/<b>|")):
        source = {"kind": "hub", "dataset": name, "role": "train", "name": part}
        inputs = {"dataset": read} if read else {}
        lineage.write(workspace.partition(PROBLEMS, part), "ingest", source, inputs, Ledger("rows", 7, 5, 2))
    lineage.write(workspace.partition(ROLLOUTS, "said"), "import", {}, {}, Ledger("responses", 9, 8, 1))
    lineage.write(workspace.partition(UPDATES, "other"), "train", {}, {}, Ledger("examples", 77, 77))
    made = export.run(workspace, "seed-0", tmp_path / "out")
    public = read_card(made.folder)
    text = card.render(workspace, public, "float32", "other", True)
    assert yaml.safe_load(text.split("---")[1])["datasets"] == ["x/<b>|"]
    assert "| ingest | rows | 21 | 15 | 6 | 0 | 0 |" in text
    assert "| import | responses | 9 | 8 | 1 | 0 | 0 |" in text
    # Other runs took the same examples for themselves.
    assert "77" not in text.partition("## Data")[2].partition("## How")[0]
    assert "<b>" not in text.split("---", 2)[2]
    hub = card.render(workspace, export.replace(public, config={**public.config, "model": "Qwen/X"}), "x", "mit", True)
    assert ModelCard(hub).data.base_model == "Qwen/X"
    record = lineage.read(workspace.partition(UPDATES, "seed-0"))
    changed = record["config"] | {"null_control": True}
    try:
        lineage.write(workspace.partition(UPDATES, "seed-0"), "train", changed, {}, Ledger("examples"))
        assert "null control" in card.render(workspace, public, "float32", "other", True)
    finally:
        lineage.write(workspace.partition(UPDATES, "seed-0"), "train", record["config"], {}, Ledger("examples"))


def test_every_aggregation_has_its_formula():
    formulas = [aggregate.aggregation(name).formula for name in aggregate.AGGREGATIONS]
    assert len(set(formulas)) == 7 and all("s" in formula for formula in formulas)


def test_a_folder_is_replaced_only_when_asked_and_ours(workspace, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    command = ["export", "seed-0", str(out), "-w", str(workspace.root)]
    first = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(first.output)["architecture"] == "Qwen2VLForConditionalGeneration"
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, UserError) and "--replace" in str(again.exception)
    (out / "stray").write_text("x")
    assert CliRunner().invoke(app, [*command, "--replace"]).exit_code == 0
    assert not (out / "stray").exists() and not list(tmp_path.glob(".*"))
    other.mkdir()
    (other / "mine.txt").write_text("x")
    for folder, words in ((other, "not an export"), (model_folder(workspace, "seed-0"), "own folder")):
        with pytest.raises(UserError, match=words):
            export.run(workspace, "seed-0", folder, over=True)
    assert (other / "mine.txt").exists() and model_folder(workspace, "seed-0").exists()


@pytest.mark.parametrize("name", ["prm.json", "config.json"])
def test_the_cure_of_a_damaged_export_works(workspace, tmp_path, name):
    folder = export.run(workspace, "seed-0", tmp_path / "out").folder
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data.replace(b"e", b"f", 1))
    with pytest.raises(UserError, match="delete the folder") as refused:
        read_card(folder)
        digests.check(folder)
    if name == "prm.json":
        with pytest.raises(UserError, match="delete the folder"):
            export.run(workspace, "seed-0", folder, over=True)
    shutil.rmtree(re.search(r"delete the folder `([^`]+)`", str(refused.value))[1])
    export.run(workspace, "seed-0", folder)
    digests.check(folder)
    assert path.read_bytes() == data


def test_what_cannot_be_exported_is_said_in_a_sentence(folders, workspace, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='no trained PRM "seed-7"'):
        export.run(workspace, "seed-7", tmp_path / "out")
    with pytest.raises(UserError, match="no --dtype float16"):
        export.run(workspace, "seed-0", tmp_path / "out", "float16")
    branched = serving_bench.trained(tmp_path / "w", folders("qwen2"), "qwen2", test=1, read="branch")
    with pytest.raises(UserError, match="side branch"):
        export.run(branched, "seed-0", tmp_path / "out")
    monkeypatch.setattr(export, "_PLACES", {})
    with pytest.raises(UserError, match="head of a qwen2_vl"):
        export.run(workspace, "seed-0", tmp_path / "out")
    falcon = AutoModelForCausalLM.from_config(
        FalconConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    with pytest.raises(UserError, match="no token classifier of a falcon"):
        as_classifier(falcon, torch.nn.Linear(16, 1, bias=False))
    assert not list(tmp_path.glob("*out*"))


def test_an_exported_text_model_has_no_language_model_head_to_start_from(folders, tmp_path):
    place = serving_bench.trained(tmp_path / "w", folders("qwen2"), "qwen2", test=1)
    prm = Prm.load(str(export.run(place, "seed-0", tmp_path / "out").folder))
    with pytest.raises(UserError, match="use scalar"):
        prm.start_head("label-token", 1, 2, 0)
    prm.start_head("scalar", 1, 2, 0)


def wider(folder: str, place: Path) -> str:
    """A text-only model like that one with heads of 32, below which vLLM has no attention on a CPU."""
    config = AutoConfig.from_pretrained(folder, hidden_size=64, head_dim=32)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(place)
    load_processor(folder, None).save_pretrained(place)
    return str(place)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_gives_the_scores(workspace, folders, tmp_path):
    """Real vLLM on a CPU: one start of Python for a model with images in both precisions, and one that reads text."""
    text = serving_bench.trained(tmp_path / "w", wider(folders("qwen2"), tmp_path / "m"), "qwen2", test=3)
    jobs = [(workspace, "float32", 1e-5), (workspace, "bfloat16", 0.02), (text, "float32", 1e-5)]
    made = [export.run(w, "seed-0", tmp_path / str(i), dtype).folder for i, (w, dtype, _) in enumerate(jobs)]
    places = [str(ROOT), *(str(ROOT / part) for part in ("tests/beds", "data/demo"))]
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    asked = json.dumps([[str(folder), str(job[0].root)] for folder, job in zip(made, jobs, strict=True)])
    with (tmp_path / "log").open("w") as log:
        subprocess.run(
            [sys.executable, "-c", VLLM, json.dumps(places), asked, str(tmp_path / "found.json")],
            stdout=log, stderr=log, env=environment, check=False, timeout=240, cwd=tmp_path,
        )  # fmt: skip
    assert (tmp_path / "found.json").exists(), (tmp_path / "log").read_text()[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for folder, (place, dtype, tolerance) in zip(made, jobs, strict=True):
        assert furthest(found[str(folder)], serving_bench.scored_rows(place)) < tolerance, dtype
