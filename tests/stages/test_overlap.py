"""Duplicates and contamination in a workspace: what is dropped, against what, and what later stages then see."""

import io
import json

import pytest
from PIL import Image, ImageDraw

from curate import chain
from curate.errors import UserError
from curate.rollout import Wanted
from curate.schema import DROPS, PROBLEMS
from curate.sections import EngineConfig, RolloutConfig
from curate.stage import Silent
from curate.store import Workspace


def to_roll_out(workspace, roles):
    config = RolloutConfig(engine=EngineConfig(kind="simulated", model="world"), roles=tuple(roles))
    return list(Wanted(config, workspace).rows())


def drawing(seed: int) -> Image.Image:
    image = Image.new("RGB", (200, 160), "white")
    draw = ImageDraw.Draw(image)
    for step in range(6):
        x, y = (seed * 53 + step * 37) % 160, (seed * 29 + step * step * 17) % 120
        draw.ellipse((x, y, x + 30 + 3 * step, y + 30), fill=((seed * 40 + step * 30) % 255, 60, 200 - 20 * step))
    return image


def save(path, image: Image.Image, **how) -> None:
    buffer = io.BytesIO()
    image.save(buffer, path.suffix[1:].replace("jpg", "jpeg"), **how)
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def place(tmp_path):
    for seed in range(5):
        save(tmp_path / f"{seed}.png", drawing(seed))
    save(tmp_path / "0-again.jpg", drawing(0), quality=60)
    save(tmp_path / "0-large.png", drawing(0).resize((400, 320)))
    return tmp_path


LONG = "A train leaves the station at noon and travels at a steady speed for several hours. How far does it get?"


def problem(question, answer="7", image=None):
    return {"question": question, "answer": answer, "image": image}


def run(place, sources, **sections):
    """A workspace with these sources (name -> rows; the role is the name's first word), and what was dropped."""
    tree = {"name": "t", "ingest": {"sources": []}} | sections
    for name, rows in sources.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tree["ingest"]["sources"].append(
            {"kind": "files", "name": name, "role": name.partition("-")[0], "path": f"{name}.jsonl",
             "columns": {"image": "image"}}
        )  # fmt: skip
    (place / "recipe.yaml").write_text(json.dumps(tree))
    workspace = Workspace.open(place / "w")
    ledgers = chain.run(chain.load(place / "recipe.yaml"), workspace, Silent(), [n for n in tree if n != "name"])
    questions = {row["problem_id"]: row["question"] for row in workspace.read(PROBLEMS).to_pylist()}
    drops = {
        (questions[row["problem_id"]], questions[row["against"]], row["reason"])
        for row in workspace.read(DROPS).to_pylist()
    }
    return workspace, ledgers, drops


def test_duplicates_by_picture_text_and_answer(place):
    workspace, ledgers, drops = run(
        place,
        {
            "train-a": [
                problem("How many dots?", image="0.png"),
                problem("How many dots?", image="1.png"),
                problem("What colour?", "red", image="0.png"),
                problem("Find x if AB = 4 and the rest is as drawn", image="2.png"),
                problem(LONG),
            ],
            "train-b": [
                problem("how many  dots", image="0-again.jpg"),
                problem("How many dots ?", "8", image="0-large.png"),
                problem("Find x if AB = 5 and the rest is as drawn", image="2.png"),
                problem(LONG.replace("noon", "Noon")),
                problem(LONG.replace("far does it get", "long does it take")),
            ],
        },
        dedup={},
    )
    # Not dropped: another picture, another question, another number, another answer, another text.
    assert drops == {
        ("how many  dots", "How many dots?", "near-duplicate"),
        (LONG.replace("noon", "Noon"), LONG, "exact-duplicate"),
    }
    (row,) = [row for row in workspace.read(DROPS).to_pylist() if row["image_distance"] is not None]
    assert row["image_distance"] <= 4
    assert 0.9 <= row["text_similarity"] <= 1
    assert (row["domain"], row["against_domain"], row["by"]) == ("train-b", "train-a", "dedup")
    assert ledgers["dedup"].taken == 10
    assert ledgers["dedup"].rejected == {"near-duplicate": 1, "exact-duplicate": 1}
    assert len(to_roll_out(workspace, ["train"])) == 8


def test_duplicates_within_domains_only(place):
    sources = {"train-a": [problem("Q?", image="0.png")], "train-b": [problem("Q?", image="0-again.jpg")]}
    assert run(place, sources, dedup={"across": False})[2] == set()
    workspace = Workspace.open(place / "w")
    chain.run(chain.load(place / "recipe.yaml", ["dedup.across=true"]), workspace, Silent(), ["dedup"])
    assert workspace.read(DROPS).num_rows == 1
    chain.run(chain.load(place / "recipe.yaml"), workspace, Silent(), ["dedup"])
    assert workspace.read(DROPS).num_rows == 0


def test_training_problems_that_the_clean_sets_show_are_dropped(place):
    workspace, ledgers, drops = run(
        place,
        {
            "meta-m": [problem("Meta: how many?", image="0.png"), problem(LONG)],
            "test-t": [problem("Test: how many?", image="1.png"), problem("Short?", image="3.png")],
            "train-a": [
                problem("Anything else?", image="0-again.jpg"),
                problem("Fine?", image="2.png"),
                problem("Short?", image="4.png"),
                problem(LONG + " Say it."),
            ],
        },
        decontaminate={},
    )
    assert drops == {
        ("Anything else?", "Meta: how many?", "image-overlap"),
        (LONG + " Say it.", LONG, "text-overlap"),
    }
    assert ledgers["decontaminate"].taken == 4
    assert {row["against_role"] for row in workspace.read(DROPS).to_pylist()} == {"meta"}
    assert {p["question"] for p in to_roll_out(workspace, ["train"])} >= {"Fine?", "Short?"}
    assert len(to_roll_out(workspace, ["meta", "test"])) == 4


def test_a_workspace_where_all_is_dropped_says_so(place):
    sources = {"meta-m": [problem("M?", image="0.png")], "train-a": [problem("T?", image="0-again.jpg")]}
    workspace, _, _ = run(place, sources, decontaminate={})
    with pytest.raises(UserError, match="all were dropped"):
        to_roll_out(workspace, ["train"])
    with pytest.raises(UserError, match="curate ingest"):
        chain.run(chain.load(place / "recipe.yaml"), Workspace.open(place / "empty"), Silent(), ["decontaminate"])
