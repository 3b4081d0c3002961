"""CONTRIBUTING.md is followed to the letter: its files become an installed package, and its recipe uses all of it."""

import csv
import json
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import ExitStack, chdir
from pathlib import Path

import pytest
import torch
from installed_package import installed_package
from published_copy import Copy, check, image, want
from typer.testing import CliRunner

from curate.api import Workspace
from curate.cli.app import app
from curate.engines import build
from curate.errors import UserError
from curate.recipe.parsing import validate
from curate.recipe.sections import EngineConfig
from curate.tables import lineage
from curate.tables.schema import ROLLOUTS, UPDATES
from prm.scoring.select import rollout_logits

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(kind: str) -> list[tuple[str, str]]:
    """(title, text) of every fenced block of a kind."""
    return re.findall(rf'^```{kind}(?: title="([^"]+)")?\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)


def points() -> dict[str, dict[str, str]]:
    """The entry points of all examples, by group."""
    found: dict[str, dict[str, str]] = {}
    for _, text in blocks("toml"):
        for group, each in tomllib.loads(text)["project"]["entry-points"].items():
            found.setdefault(group, {}).update(each)
    return found


MODULES = {title: text for title, text in blocks("python") if not title.startswith("tests/")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The workspace of the page's commands, and what they print, while the package is installed."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / "data").symlink_to(ROOT / "data")
    for title, text in [*blocks("json"), *blocks("yaml")]:
        if "/" not in title:
            (clone / title).write_text(text)
    with ExitStack() as held:
        held.enter_context(installed_package(clone / "package", MODULES, points()))
        held.enter_context(chdir(clone))
        printed = [run(line) for line in blocks("sh")[-1][1].splitlines()]
        yield Workspace("work/days"), printed


def run(line: str) -> str:
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output[-3000:]}{done.exception!r}"
    return done.output


def test_every_example_is_an_entry_of_an_open_table():
    """The table at the end of the page has every group, and every block is of a kind that is followed here."""
    groups = set(re.findall(r"^\| `((?:curate|prm)\.\w+)` \|", TEXT, re.MULTILINE))
    registries = set()
    for path in [*(ROOT / "curate").rglob("*.py"), *(ROOT / "prm").rglob("*.py")]:
        registries |= set(re.findall(r'Registry\[\w+\] = Registry\(\s*"([\w.]+)"', path.read_text()))
    assert groups == registries and set(points()) < groups
    assert set(re.findall(r"^```(\w+)", TEXT, re.MULTILINE)) == {"python", "toml", "yaml", "json", "sh"}


def test_the_examples_keep_the_rules(tmp_path):
    for title, text in MODULES.items():
        (tmp_path / title).parent.mkdir(exist_ok=True)
        (tmp_path / title).write_text(text)
    rules = ["--config", ROOT / "pyproject.toml", "--no-cache"]
    for command in (["check", *rules], ["format", "--check", *rules]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_dataset_recipe_and_its_fixture(tmp_path):
    ((title, recipe),) = [block for block in blocks("yaml") if block[0].startswith("recipes/")]
    ((_, fixture),) = [block for block in blocks("python") if block[0].startswith("tests/")]
    path = tmp_path / Path(title).name
    path.write_text(recipe)
    names = {"COPIES": {}, "Copy": Copy, "image": image, "want": want}
    exec(compile(fixture, "CONTRIBUTING.md", "exec"), names)
    ((name, copy),) = names["COPIES"].items()
    assert name == path.stem
    check(copy, path, tmp_path / "made")


def test_the_grader_grades_and_the_engine_speaks(ran):
    workspace, _ = ran
    problems = workspace.arrow("problems").to_pylist()
    assert {row["answer_type"] for row in problems} == {"date"} and len(problems) == 4
    reasons = [row["reason"] for row in workspace.arrow("rejects").to_pylist()]
    assert [reason for reason in reasons if reason != "not-wanted"] == ["gold-fails-own-grader"]
    rollouts = workspace.arrow("rollouts").to_pylist()
    assert len(rollouts) == 16
    assert {(row["answer"], row["outcome"], row["outcome_rule"].split("/")[1]) for row in rollouts} == {
        ("19 March 1932", True, "date"),
        ("May 19, 1932", False, "date"),
    }
    assert lineage.read(workspace.store.partition(ROLLOUTS))["versions"]["canned"] == "1"


def test_the_stage_runs_in_its_place_and_its_table_is_there(ran):
    workspace, (printed, sql, _) = ran
    stages = re.findall(r"^(\w+): [\d,]+ \w+ in = ", printed, re.MULTILINE)
    assert stages == ["ingest", "rollout", "label", "shard", "lengths", "train", "score", "select", "report"]
    assert workspace.tables()["lengths"] == 16 and "lengths" in set(workspace.ledger()["table_name"])
    assert re.search(r"18 +│ +16", sql)
    rollout = workspace.arrow("rollouts").to_pylist()[0]["rollout_id"]
    shown = json.loads(run(f"curate show {rollout} -w work/days --json"))
    assert [(row["rollout_id"], row["length"]) for row in shown["tables"]["lengths"]] == [(rollout, 18)]
    assert re.search(rf"lengths.*{rollout}", run(f"curate show {rollout} -w work/days"), re.DOTALL)
    with pytest.raises(UserError, match='did you mean "lengths"'):
        workspace.arrow("length")


def test_the_upper_loss_is_trained_on(ran):
    workspace, _ = ran
    record = lineage.read(workspace.store.partition(UPDATES, "seed-0"))
    assert record["config"]["upper"]["loss"] == "log-loss"
    losses = [row["meta_loss"] for row in workspace.arrow("updates").to_pylist() if row["meta_loss"] is not None]
    # Half of the meta rollouts are right: a log loss is at least log 2 where all have one score, a squared error 1/4.
    assert losses and min(losses) > 0.5


def test_the_aggregation_selects(ran):
    workspace, _ = ran
    rollouts = workspace.arrow("rollouts").to_pylist()
    steps = {row["rollout_id"]: len(row["steps"]) for row in rollouts if row["role"] == "test"}
    found = rollout_logits(workspace.store, steps, "second-lowest")["seed-0"]
    scores: dict[str, list[float]] = {}
    for row in workspace.arrow("step_scores").to_pylist():
        scores.setdefault(row["rollout_id"], []).append(row["score"])
    assert {name: torch.tensor(each).sigmoid().item() for name, each in found.items()} == pytest.approx(
        {name: sorted(each)[1] for name, each in scores.items()}
    )
    chosen = json.loads((workspace.root / "reports" / "select.json").read_text())
    assert chosen["aggregation"] == "second-lowest"


def test_the_export_writes_its_files_and_a_card(ran):
    workspace, _ = ran
    folder = workspace.root.parent / "days-lines"
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and all(len(row["labels"]) == len(row["steps"]) == 3 for row in rows)
    assert "pandas.read_json" in (folder / "README.md").read_text()


def test_the_report_has_the_column_in_every_form(ran):
    workspace, (printed, *_) = ran
    folder = workspace.root / "reports"
    (bridges, tunnels) = sorted(csv.DictReader((folder / "report.csv").open()), key=lambda row: row["domain"])
    # What was rejected has no domain: it may be of either.
    assert (float(bridges["rejected_share"]), float(tunnels["rejected_share"])) == (0.0, 0.0)
    domains = {row["domain"]: row for row in json.loads((folder / "report.json").read_text())["domains"]}
    assert domains["tunnels"]["rejected_share"] == 0.0
    for shown in (printed, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        assert re.search(r"\b0 %", shown) and re.search(r"rejected([ _]share)?\b", shown)


def test_an_engine_says_which_settings_it_uses(ran):
    for setting in ("max_pixels", "max_model_len"):
        config = validate(
            EngineConfig, {"kind": "canned", "model": "m", "args": {"says": ["7"]}, setting: 99}, "engine"
        )
        with pytest.raises(UserError, match=f"{setting} has no effect with the engine canned"):
            build(config)
