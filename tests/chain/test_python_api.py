"""The Python API does what its page says, and what the commands do."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import curate
import prm
from curate.cli.app import app
from curate.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page's example leaves behind, and what it printed, in a folder beside the clone's data."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "data").symlink_to(ROOT / "data")
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)[1]
    names, said = {}, io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        exec(compile(code, "python-api.md", "exec"), names)
    return folder, names, said.getvalue()


def test_the_page_s_example_runs(page):
    _, names, said = page
    assert "26 rows in = 26 out" in said
    assert {"bars", "tables", "trusted", "held-back"} == set(names["rollouts"]["domain"])
    assert 0 < names["found"].score < 1 and len(names["found"].steps) == 2
    assert [bool(each.error) for each in names["many"]] == [False, True]


def test_functions_do_what_commands_do(page, tmp_path, monkeypatch):
    folder, names, _ = page
    monkeypatch.chdir(folder)
    for command in ("ingest", "rollout", "label", "shard"):
        done = CliRunner().invoke(app, [command, "small.yaml", "-w", str(tmp_path / "cli")])
        assert done.exit_code == 0, done.output
    other = curate.Workspace(tmp_path / "cli")
    for table in ("problems", "rollouts", "step_labels", "examples"):
        ours, theirs = (each.polars(table) for each in (names["workspace"], other))
        key = ours.columns
        assert ours.select(key).rows() and sorted(map(repr, ours.rows())) == sorted(map(repr, theirs.rows())), table
    # What is finished is skipped and counted, as by the command.
    assert curate.rollout("small.yaml", other).skipped == other.arrow("rollouts").num_rows


def test_a_mistake_is_one_sentence(page, tmp_path, monkeypatch):
    folder, names, _ = page
    monkeypatch.chdir(folder)
    workspace, model = names["workspace"], names["model"]
    for wrong, said in (
        (lambda: workspace.arrow("rollout"), 'There is no table "rollout"; did you mean "rollouts"?'),
        (lambda: workspace.polars("rollouts", ["txt"]), 'has no column "txt"; did you mean "text"?'),
        (lambda: workspace.sql("SELEC 1"), "The query failed"),
        (lambda: curate.load("nowhere.yaml"), "There is no recipe at nowhere.yaml"),
        (lambda: curate.load("small.yaml", "rollout.samples=2"), "put this text into a list"),
        (lambda: curate.load("small.yaml", {"rollout.sample": 2}), 'did you mean "samples"'),
        (lambda: curate.Workspace(tmp_path / "none"), "no workspace"),
        (lambda: curate.judge("small.yaml", workspace), 'no section "judge"'),
        (lambda: prm.load("seed-9", workspace), "seed-9"),
        (lambda: model.score(question="Q?", steps="So 2."), "put a single one into a list"),
        (lambda: model.score(question="Q?", steps=["So 2."], images=["no.png"]), "no.png cannot be read"),
        (lambda: model.score(question="Q?", steps=["So 2."], images=[b"GIF"]), "no score"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            wrong()
    changes = {
        "rollout.samples": {"train": 5, "meta": 4, "test": 4},
        "rollout.limit": None,
        "name": "a: b",
    }
    recipe = curate.load("small.yaml", changes)
    assert recipe.name == "a: b"
    changed = recipe.section("rollout")
    assert (changed.samples["train"], changed.limit) == (5, None)


def test_options_of_ingest_are_those_of_the_command(page, tmp_path, monkeypatch):
    monkeypatch.chdir(page[0])
    assert curate.ingest("small.yaml", tmp_path / "a", limit=2).out == 8
    with pytest.raises(UserError, match="is of kind synthetic, which has no --split"):
        curate.ingest("small.yaml", tmp_path / "b", split="test")


def test_an_image_may_be_a_path_bytes_or_an_image(page, tmp_path):
    _, names, _ = page
    shown = Image.new("RGB", (64, 64), "white")
    shown.save(tmp_path / "a.png")
    ways = (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), shown)
    scores = [names["model"].score(question="What is it?", steps=["White."], images=[way]).score for way in ways]
    assert len(set(scores)) == 1


def test_names_that_are_not_there_are_no_attributes():
    assert {"Workspace", "ingest", "run"} <= set(dir(curate)) and {"load", "train"} <= set(dir(prm))
    with pytest.raises(AttributeError):
        curate.inges  # noqa: B018
    with pytest.raises(AttributeError):
        prm.trane  # noqa: B018
