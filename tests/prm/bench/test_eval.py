"""`prm eval` from end to end on a tiny random PRM: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import random
import re

import pytest
from bench_testbed import prmbench_rows, prmbench_scorer, processbench_rows, visualprocessbench_rows, write_lines
from page_bed import CHROMIUM, needs_browser
from prm_testbed import example_rows, fill
from report_testbed import add_run
from train_testbed import train_config
from typer.testing import CliRunner

from curate.errors import UserError
from curate.tables.schema import STEP_SCORES
from curate.tables.store import Store
from prm.cli.app import app
from prm.data.encode import Encoder, load_processor
from prm.data.examples import read_examples, read_images
from prm.model.reward_model import Prm
from prm.model.saved import Card, model_folder, save_model
from prm.scoring import score


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory) -> Store:
    """A workspace with two runs, whose PRMs are random, and test examples that both have scored."""
    workspace = Store.open(tmp_path_factory.mktemp("eval"))
    fill(workspace, "test", *example_rows(12, "test", ("a", "b")))
    for seed, name in enumerate(("seed-0", "seed-1")):
        add_run(workspace, name, seed, False, {"a": 1.0, "b": 1.0}, updates=1)
        prm = Prm.load(tiny_model)
        prm.start_head("scalar", 0, 0, seed)
        # Far enough apart that some scores are on either side of the threshold.
        prm.score.weight.data.mul_(20)
        encoder = Encoder(load_processor(tiny_model, None), {}, "Judge the steps.", 200)
        config = train_config(model=tiny_model, instruction="Judge the steps.", max_length=200, mode="uniform")
        save_model(prm, model_folder(workspace, name), encoder, Card.of(name, config, None))
    score.run(workspace)
    return workspace


def invoke(workspace: Store, *words: str) -> str:
    result = CliRunner().invoke(app, ["eval", *words, "-w", str(workspace.root)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def evaluated(workspace: Store, *words: str) -> list[dict]:
    return json.loads(invoke(workspace, *words, "--json", "--set", "resamples=200"))["results"]


def group(result: dict, name: str | None) -> dict:
    return next(each for each in result["groups"] if each["name"] == name)


def test_processbench_of_every_run(place, tmp_path):
    rng = random.Random(1)
    for subset in ("gsm8k", "math"):
        rows = processbench_rows(rng, 20, subset)
        rows[3]["steps"] = ["so many words that it is too long " * 60]
        rows[3]["label"] = -1
        write_lines(tmp_path / f"{subset}.jsonl", rows)
    results = evaluated(place, "processbench", str(tmp_path))
    assert [result["run"] for result in results] == ["seed-0", "seed-1"]
    one = results[0]
    assert one["account"] == {"chains": 40, "unread": {}, "duplicate": 0, "held_out": 0, "evaluated": 40}
    assert group(one, "gsm8k")["counts"]["unscored"] == {"too-long": 1}
    assert any("olympiadbench, omnimath" in note for note in one["notes"])
    assert any("2 of 40 chains lack scores" in note for note in one["notes"])
    average = group(one, None)["figures"]["average_f1"]
    assert average["low"] <= average["value"] <= average["high"]
    assert one["threshold"]["value"] == 0.5
    assert one["threshold"]["headline_at_best"] >= average["value"]
    folder = place.root / "reports" / "eval" / "processbench" / "seed-0"
    names = {path.name for path in folder.iterdir()}
    assert names == {"results.json", "results.md"} | {
        f"{s}_{k}.jsonl" for s in ("gsm8k", "math") for k in ("error", "correct")
    }
    lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == 40
    assert sum(line["prediction"] is None and not line["match"] for line in lines) == 2
    assert json.loads((folder / "results.json").read_text()) == one
    # The same again is the same.
    assert evaluated(place, "processbench", str(tmp_path)) == results
    (tuned,) = evaluated(place, "processbench", str(tmp_path), "--run", "seed-0", "--set", "tune=gsm8k")
    assert group(tuned, "gsm8k")["figures"]["f1"]["value"] >= group(one, "gsm8k")["figures"]["f1"]["value"]
    assert "too good" in tuned["threshold"]["rule"]
    held = ("--set", "tune=held-out", "--set", "held_out=0.5")
    (apart,) = evaluated(place, "processbench", str(tmp_path), "--run", "seed-0", *held)
    account = apart["account"]
    assert 10 < account["held_out"] < 30
    assert account["held_out"] + account["evaluated"] == 40
    assert group(apart, None)["counts"]["chains"] == account["evaluated"]


def test_scores_are_those_of_prm_score(place, tmp_path):
    """A chain of the workspace's test set as a benchmark's row gets the scores that `prm score` wrote for it."""
    example = read_examples(place, ("test",))[0]
    (tmp_path / "images").mkdir()
    key = example.image_hashes[0]
    (tmp_path / "images" / "0.png").write_bytes(read_images(place, [example])[key])
    row = {
        "image": ["images/0.png"],
        "question": example.question,
        "answer": "1",
        # Steps of the benchmark come without what parts them.
        "response": {"steps": [step.rstrip() for step in example.steps], "process_correctness": [1, 1, -1, 0, 1]},
        "policy_model": "x",
        "data_source": "MMMU",
    }
    path = write_lines(tmp_path / "test.jsonl", [row])
    evaluated(place, "visualprocessbench", str(path), "--run", "seed-1")
    folder = place.root / "reports" / "eval" / "visualprocessbench" / "seed-1"
    ours = json.loads((folder / "visualprocessbench.jsonl").read_text())["step_scores"]
    table = place.read(STEP_SCORES).to_pylist()
    known = [row for row in table if (row["run"], row["rollout_id"]) == ("seed-1", example.rollout_id)]
    theirs = [row["score"] for row in sorted(known, key=lambda row: row["step_index"])]
    # The first step has the very same prefix; later ones differ in the white space between steps.
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert len(ours) == len(theirs)


def test_visualprocessbench_with_images_elsewhere_and_missing_ones(place, tmp_path):
    rows = visualprocessbench_rows(random.Random(2), 12, tmp_path / "pictures")
    rows[0]["image"] = ["images/none.png"]
    path = write_lines(tmp_path / "test.jsonl", rows)
    words = ("visualprocessbench", str(path), "--images", str(tmp_path / "pictures"), "--run", "seed-0")
    (one,) = evaluated(place, *words)
    assert group(one, None)["counts"]["unscored"] == {"image-missing": 1}
    assert group(one, None)["counts"]["unlabelled"] == sum(
        label == 0 for row in rows for label in row["response"]["process_correctness"]
    )
    (less,) = evaluated(place, *words, "--limit", "5", "--set", "missing=left-out")
    assert less["account"]["chains"] == 5
    assert any("first 5 rows" in note for note in less["notes"])
    shown = invoke(place, *words, "--set", "resamples=100")
    assert "macro F1" in shown
    assert "Threshold 0.5: fixed at 0.5 beforehand" in " ".join(shown.split())
    text = (place.root / "reports" / "eval" / "visualprocessbench" / "seed-0" / "results.md").read_text()
    assert "| MMMU |" in text
    assert "image-missing" in text.replace("\\", "")


def test_prmbench_of_a_saved_model_elsewhere(place, tmp_path):
    records = prmbench_rows(random.Random(3), 4)
    path = write_lines(tmp_path / "prmbench_preview.jsonl", records)
    fresh = Store.open(tmp_path / "fresh")
    (one,) = evaluated(fresh, "prmbench", str(path), "--model", str(model_folder(place, "seed-0")))
    assert re.fullmatch(r"model-seed-0-[0-9a-f]{6}", one["run"])
    folder = fresh.root / "reports" / "eval" / "prmbench" / one["run"]
    lines = [json.loads(line) for line in (folder / "prmtest_classified.jsonl").read_text().splitlines()]
    theirs = prmbench_scorer(records, lines)
    assert group(one, None)["figures"]["prmscore"]["value"] == pytest.approx(theirs["total"])
    assert group(one, "multi_solutions")["figures"]["prmscore"]["value"] == pytest.approx(theirs["multi_solutions"])


def test_calibration_writes_a_page_that_loads_nothing(place):
    (one,) = evaluated(place, "calibration", "--run", "seed-0")
    assert one["data"]["target"] == "outcome"
    whole = group(one, None)
    assert whole["counts"]["steps"] == 60
    assert sum(each["steps"] for each in whole["bins"]) == 60
    assert whole["figures"]["noise_floor"]["value"] is None
    assert whole["figures"]["ece_of_chance"]["value"] > 0
    folder = place.root / "reports" / "eval" / "calibration" / "seed-0"
    page = (folder / "calibration.html").read_text()
    assert "default-src 'none'" in page
    assert page.count("data-chart=") == 3
    assert '<link rel="stylesheet"' not in page
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 60
    scores = sorted(row["score"] for row in place.read(STEP_SCORES).to_pylist() if row["run"] == "seed-0")
    assert sorted(step["score"] for step in steps) == pytest.approx(scores, rel=1e-5)


@needs_browser
def test_the_page_draws_in_a_browser_without_a_network(place):
    from playwright.sync_api import sync_playwright

    evaluated(place, "calibration", "--run", "seed-1")
    path = place.root / "reports" / "eval" / "calibration" / "seed-1" / "calibration.html"
    trouble: list[str] = []
    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to run as root.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_context(offline=True).new_page()
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-ready]")
        assert tab.locator(".plot .main-svg").count() >= 3
        assert tab.locator("table").count() == 4
        browser.close()
    assert trouble == []


def test_names_from_data_stay_text(place, tmp_path):
    rows = visualprocessbench_rows(random.Random(2), 6, tmp_path)
    for row in rows:
        row["data_source"] = "<b>|../x\u202e"
    path = write_lines(tmp_path / "test.jsonl", rows)
    evaluated(place, "visualprocessbench", str(path), "--run", "seed-0")
    text = (place.root / "reports" / "eval" / "visualprocessbench" / "seed-0" / "results.md").read_text()
    assert "<b>" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("processbench",), "Say where the files"),
        (("processbench", "nowhere.xyz", "--run", "seed-9"), "no trained run"),
        (("calibration", "x.jsonl"), "a path does nothing"),
        (("calibration", "--images", "."), "--images does nothing"),
        (("calibration", "--set", "target=counts"), "counts of independent"),
        (("calibration", "--set", "threshold=0.4"), "settings of `prm eval`"),
        (("prmbench", "DATA", "--set", "tune=gsm8k"), "is for processbench"),
        (("processbench", "DATA"), 'no column "id"'),
        (("prmbench", "DATA", "--revision", "main"), "--revision is for"),
        (("prmbench", "DATA", "--run", "seed-0", "--model", "."), "--run does nothing"),
    ],
)
def test_mistakes_say_the_cure(place, tmp_path, words, sentence):
    path = write_lines(tmp_path / "data.jsonl", prmbench_rows(random.Random(0), 1, ("circular",)))
    with pytest.raises(UserError, match=re.escape(sentence)):
        invoke(place, *(str(path) if word == "DATA" else word for word in words))
