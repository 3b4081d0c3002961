"""Duplicates and contamination in a workspace: what is dropped, against what, and what later stages then see."""

import io
import json
import time

import pytest
from PIL import Image, ImageDraw

from curate import pipeline
from curate.errors import UserError
from curate.recipe.sections import DedupConfig, EngineConfig, RolloutConfig
from curate.runtime.reporter import Silent
from curate.stages import overlap
from curate.stages.rollout import RolloutWork
from curate.tables.rows import ProblemRow
from curate.tables.schema import DROPS, PROBLEMS
from curate.tables.store import Store


def to_roll_out(workspace, roles):
    config = RolloutConfig(engine=EngineConfig(kind="simulated", model="world"), roles=tuple(roles))
    return list(RolloutWork(config, workspace).rows(ProblemRow))


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
    save(tmp_path / "0-hue.png", Image.merge("RGB", drawing(0).split()[::-1]))
    return tmp_path


LONG = "A train leaves the station at noon and travels at a steady speed for several hours. How far does it get?"


def problem(question, answer="7", image=None, choices=None):
    return {"question": question, "answer": answer, "image": image, "choices": choices}


def run(place, sources, **sections):
    """A workspace with these sources (name -> rows; the role is the name's first word), and what was dropped."""
    tree = {"name": "t", "ingest": {"sources": []}} | sections
    for name, rows in sources.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tree["ingest"]["sources"].append(
            {"kind": "files", "name": name, "role": name.partition("-")[0], "path": f"{name}.jsonl",
             "columns": {"image": "image", "choices": "choices"}}
        )  # fmt: skip
    (place / "recipe.yaml").write_text(json.dumps(tree))
    workspace = Store.open(place / "w")
    ledgers = pipeline.run(pipeline.load(place / "recipe.yaml"), workspace, Silent(), [n for n in tree if n != "name"])
    questions = {row["problem_id"]: row["question"] for row in workspace.read(PROBLEMS).to_pylist()}
    drops = {
        (questions[row["problem_id"]], questions[row["against"]], row["reason"])
        for row in workspace.read(DROPS).to_pylist()
    }
    return workspace, ledgers, drops


def test_duplicates_by_image_text_and_answer(place):
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
                problem("How many red dots?", image="0-hue.png"),
                problem("Find x if AB = 5 and the rest is as drawn", image="2.png"),
                problem(LONG.replace("noon", "Noon")),
                problem(LONG.replace("far does it get", "long does it take")),
            ],
        },
        dedup={},
    )
    # Not dropped: another image, another question, another number, another text, another colour.
    assert drops == {
        ("how many  dots", "How many dots?", "near-duplicate"),
        ("How many dots ?", "How many dots?", "contradiction"),
        (LONG.replace("noon", "Noon"), LONG, "exact-duplicate"),
    }
    by_reason = {row["reason"]: row for row in workspace.read(DROPS).to_pylist()}
    row = by_reason["near-duplicate"]
    assert row["image_distance"] <= 4
    assert 0.9 <= row["text_similarity"] <= 1
    assert by_reason["exact-duplicate"]["image_distance"] is None
    assert (row["domain"], row["against_domain"], row["by"]) == ("train-b", "train-a", "dedup")
    assert ledgers["dedup"].taken == 11
    assert ledgers["dedup"].rejected == {"near-duplicate": 1, "exact-duplicate": 1, "contradiction": 1}
    assert len(to_roll_out(workspace, ["train"])) == 8


def test_options_are_compared_by_their_texts_and_the_answer_that_most_give_stays(place):
    first, second = ["It floats.", "It sinks."], ["It sinks.", "It floats."]
    ask = "A block of oak is put into a bowl of fresh water. What does it do next?"
    sources = {
        "train-a": [problem(ask, "B", choices=first)],
        "train-b": [problem(ask, "A", choices=first)],
        "train-c": [problem(ask, "B", choices=second)],
        "train-d": [problem(ask, "A", choices=["It floats.", "It burns."])],
    }
    workspace, ledgers, _ = run(place, sources, dedup={})
    # One domain says that it sinks and two that it floats; other options make another problem.
    rows = {row["domain"]: (row["reason"], row["against_domain"]) for row in workspace.read(DROPS).to_pylist()}
    assert rows == {"train-a": ("contradiction", "train-b"), "train-c": ("near-duplicate", "train-b")} or rows == {
        "train-a": ("contradiction", "train-b"),
        "train-c": ("exact-duplicate", "train-b"),
    }
    assert sum(ledgers["dedup"].rejected.values()) == 2


def test_the_order_of_words_and_golds_in_other_spellings(place):
    more = "In the small town by the sea lives {} who has 5 boats more than {}. How many boats have both, if one has 9?"
    sources = {
        "train-a": [problem(more.format("Ilse", "Tom"), "0.5"), problem("Half of one, as a number?", "0.5")],
        "train-b": [problem(more.format("Tom", "Ilse"), "0.5"), problem("Half of one, as a number?", "1/2")],
    }
    _, _, drops = run(place, sources, dedup={})
    assert drops == {("Half of one, as a number?", "Half of one, as a number?", "exact-duplicate")}


def test_chains_without_gold_answers_are_compared_by_what_is_asked(place):
    chain_of = {"kind": "files", "path": "steps.jsonl", "columns": {"answer": None},
                "chain": {"steps": "steps", "labels": "label", "labels_form": "first-error"}}  # fmt: skip
    rows = [{"question": ask, "steps": ["One.", "Two."], "label": -1} for ask in ("How much is 3 + 4?", "And 3 + 5?")]
    (place / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "gold.jsonl").write_text(json.dumps({"question": "how much is 3 + 4", "answer": "7"}) + "\n")
    sources = [chain_of | {"name": "s"}, {"kind": "files", "name": "g", "path": "gold.jsonl"}]
    (place / "r.yaml").write_text(
        json.dumps({"name": "t", "ingest": {"sources": sources}, "dedup": {}, "decontaminate": {}, "shard": {}})
    )
    workspace = Store.open(place / "w")
    ledgers = pipeline.run(pipeline.load(place / "r.yaml"), workspace, Silent())
    (row,) = workspace.read(DROPS).to_pylist()
    # The one that has a gold answer stays.
    assert (row["domain"], row["against_domain"], row["reason"]) == ("s", "g", "exact-duplicate")
    assert ledgers["decontaminate"].taken == 3


def test_the_same_row_with_another_gold_answer_is_a_contradiction_when_it_comes_in(place):
    sources = {"train-a": [problem("How many?", "4"), problem("How many?", "4.0"), problem("How many?", "5")]}
    _, ledgers, _ = run(place, sources)
    assert (ledgers["ingest"].duplicate, ledgers["ingest"].rejected) == (1, {"contradiction": 1})


def test_duplicates_within_domains_only(place):
    sources = {"train-a": [problem("Q?", image="0.png")], "train-b": [problem("Q?", image="0-again.jpg")]}
    assert run(place, sources, dedup={"across": False})[2] == set()
    workspace = Store.open(place / "w")
    pipeline.run(pipeline.load(place / "recipe.yaml", ["dedup.across=true"]), workspace, Silent(), ["dedup"])
    assert workspace.read(DROPS).num_rows == 1
    pipeline.run(pipeline.load(place / "recipe.yaml"), workspace, Silent(), ["dedup"])
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
    assert {p.question for p in to_roll_out(workspace, ["train"])} >= {"Fine?", "Short?"}
    assert len(to_roll_out(workspace, ["meta", "test"])) == 4


def test_a_template_is_no_overlap_where_images_differ(place):
    ask = "A ranger counted the birds on each of the islands and made a table. What is the lowest count of all?"
    sources = {
        "test-t": [problem(ask, "3", image="0.png"), problem(ask, "6", image="1.png")],
        "train-a": [problem(ask, "8", image="2.png"), problem(ask, "6", image="3.png"), problem(ask, "3", "0-hue.png")],
    }
    assert run(place, sources, decontaminate={})[2] == set()
    workspace = Store.open(place / "w")
    changed = pipeline.load(place / "recipe.yaml", ["decontaminate.other_images=true"])
    ledgers = pipeline.run(changed, workspace, Silent(), ["decontaminate"])
    # Only where the answers agree.
    assert ledgers["decontaminate"].rejected == {"text-overlap": 2}
    with pytest.raises(UserError, match=r'min_characters" in the recipe has no effect with other_images false'):
        pipeline.load(place / "recipe.yaml", ["decontaminate.min_characters=80"])


def test_a_text_of_the_test_set_with_another_gold_is_a_contradiction(place):
    sources = {
        "test-t": [problem(LONG, "300")],
        "train-a": [problem(LONG + " ", "250"), problem(LONG + " Say!", "250")],
    }
    _, ledgers, drops = run(place, sources, decontaminate={})
    assert ledgers["decontaminate"].rejected == {"contradiction": 1, "text-overlap": 1}
    assert {reason for *_, reason in drops} == {"contradiction", "text-overlap"}


def test_thousands_that_are_alike_cost_no_more_than_their_number(place):
    """Texts that differ in two words of thirty, with as many answers as texts, and with one: no pair is a duplicate."""
    sizes = ["small", "large", "narrow", "wide", "tall", "flat", "round", "square", "plain", "odd"]
    ask = (
        "A {} box and a {} box stand on a table of the hall, and somebody who has only one hand free has to take one "
        "of them up to the roof: which of them {}?"
    )
    ends = [f"is better by rule {chr(97 + n // 10)}{chr(97 + n % 10)}" for n in range(8)]
    asked = [ask.format(one, two, end) for one in sizes for two in sizes for end in ends if one != two]
    rows = [problem(text, "both") for text in asked] + [problem(text + " Why?", str(n)) for n, text in enumerate(asked)]
    workspace, _, _ = run(place, {"train-a": rows})
    begun = time.process_time()
    ledger = overlap.dedup(DedupConfig(text_similarity=0.99), workspace)
    assert ledger.taken == ledger.out == 2 * len(asked) > 1400
    assert time.process_time() - begun < 20


def test_a_workspace_where_all_is_dropped_says_so(place):
    sources = {"meta-m": [problem("M?", image="0.png")], "train-a": [problem("T?", image="0-again.jpg")]}
    workspace, _, _ = run(place, sources, decontaminate={})
    with pytest.raises(UserError, match="all were dropped"):
        to_roll_out(workspace, ["train"])
    with pytest.raises(UserError, match="curate ingest"):
        pipeline.run(pipeline.load(place / "recipe.yaml"), Store.open(place / "empty"), Silent(), ["decontaminate"])
