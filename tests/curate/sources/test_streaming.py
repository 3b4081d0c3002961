"""What a stage holds does not grow with its table: journals are committed early, images come a file at a time.

Problems are labelled a few at a time, and labels take the place of others whole, or not at all.
"""

import asyncio
import json

import pytest

from curate import pipeline
from curate.errors import UserError
from curate.runtime.reporter import Silent
from curate.stages import base
from curate.stages.base import Unit, run_units
from curate.stages.label import families, labels
from curate.stages.stored_images import StoredImages
from curate.tables.schema import COMPLETIONS, IMAGES, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import CommittedFiles, Store, Writer


def recipe(tmp_path, rows=20):
    tree = {
        "name": "t",
        "seed": 3,
        "ingest": {"sources": [{"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": rows}]},
        "rollout": {"engine": {"kind": "simulated", "model": "world", "in_flight": 5}, "samples": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return pipeline.load(path)


def test_a_long_journal_is_committed_before_its_shard_is_done(tmp_path, monkeypatch):
    whole, pieces = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    pipeline.run(recipe(tmp_path), whole, Silent())
    monkeypatch.setattr(base, "JOURNAL_ROWS", 2)
    longest, append = 0, base.Journal.append

    def watched(self, rows):
        nonlocal longest
        append(self, rows)
        longest = max(longest, len(self.rows()))

    monkeypatch.setattr(base.Journal, "append", watched)
    pipeline.run(recipe(tmp_path), pieces, Silent())
    assert longest <= 2
    assert len(pieces.files(ROLLOUTS)) > len(whole.files(ROLLOUTS))
    rows = [sorted(map(str, each.read(ROLLOUTS).to_pylist())) for each in (whole, pieces)]
    assert rows[0] == rows[1]
    assert not pieces.partition(ROLLOUTS).journals()


def test_units_are_taken_only_as_they_are_needed(tmp_path):
    workspace = Store.open(tmp_path / "w")
    partition = workspace.partition(ROLLOUTS)
    taken = finished = ahead = 0

    def units():
        nonlocal taken
        for number in range(200):
            taken += 1
            yield Unit(number // 50, number)

    async def work(unit):
        nonlocal finished, ahead
        ahead = max(ahead, taken - finished)
        await asyncio.sleep(0)
        finished += 1
        return []

    outcome = asyncio.run(run_units(partition, units(), work, 7, Silent()))
    assert (outcome.done, finished) == (200, 200)
    assert ahead <= 8
    with pytest.raises(AssertionError, match="shard by shard"):
        asyncio.run(run_units(partition, [Unit(0, 1), Unit(1, 2), Unit(0, 3)], _slow, 9, Silent()))


async def _slow(unit):
    await asyncio.sleep(0.05)
    return []


def test_images_come_right_in_any_order_and_from_little_memory(tmp_path):
    workspace = Store.open(tmp_path / "w")
    pipeline.run(recipe(tmp_path), workspace, Silent(), ["ingest"])
    problems = workspace.read(PROBLEMS).to_pylist()
    stored = {row["image_hash"]: row["bytes"] for row in workspace.read(IMAGES).to_pylist()}
    images = StoredImages(workspace, held=1)
    for problem in [*problems, *reversed(problems)]:
        assert [(each.image_hash, each.data) for each in images.of(problem["image_hashes"])] == [
            (key, stored[key]) for key in problem["image_hashes"]
        ]
        assert len(images._open) <= 1
    with pytest.raises(UserError, match="ingest its source again"):
        images.of({"image_hashes": ["0" * 32]})


def test_a_limit_takes_the_same_problems_again_and_more_of_them(tmp_path):
    from curate.stages.rollout import RolloutWork
    from curate.tables.rows import ProblemRow

    loaded, workspace = recipe(tmp_path), Store.open(tmp_path / "w")
    pipeline.run(loaded, workspace, Silent(), ["ingest"])
    config = loaded.section("rollout")

    def chosen(limit):
        return {
            row.problem_id
            for row in RolloutWork(config.model_copy(update={"limit": limit}), workspace).rows(ProblemRow)
        }

    assert chosen(5) < chosen(9) < chosen(None)
    assert [len(chosen(limit)) for limit in (5, 9, 100, None)] == [5, 9, 20, 20]


def label_recipe(tmp_path, **label):
    loaded = recipe(tmp_path)
    tree = json.loads((tmp_path / "recipe.yaml").read_text()) | {"label": label}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    return pipeline.load(loaded.folder / "recipe.yaml")


def rows(workspace, *tables):
    return [sorted(map(str, workspace.read(table).to_pylist())) for table in tables]


@pytest.mark.parametrize("label", [{}, {"budget_tokens": 20_000}, {"mode": "hard", "rollouts": 1}], ids=str)
def test_labels_do_not_depend_on_how_many_problems_are_read_together(tmp_path, monkeypatch, label):
    whole, pieces = Store.open(tmp_path / "a"), Store.open(tmp_path / "b")
    ledgers = pipeline.run(label_recipe(tmp_path, **label), whole, Silent())
    # Other files, too: the last bits of the sizes' common factor must not depend on those.
    monkeypatch.setattr(base, "JOURNAL_ROWS", 2)
    monkeypatch.setattr(families, "GROUP", 3)
    monkeypatch.setattr(labels, "_CHUNK", 5)
    maximum, read = 0, CommittedFiles.read

    def watched(self, columns=None, where=None):
        nonlocal maximum
        found = read(self, columns, where)
        if {"sample_index", "rollout_id"} <= set(columns or ()):
            maximum = max(maximum, len(set(found["rollout_id"].to_pylist())))
        return found

    monkeypatch.setattr(CommittedFiles, "read", watched)
    assert pipeline.run(label_recipe(tmp_path, **label), pieces, Silent()) == ledgers
    assert 0 < maximum <= 4  # two problems of two rollouts each
    assert rows(pieces, ROLLOUTS, COMPLETIONS, STEP_LABELS) == rows(whole, ROLLOUTS, COMPLETIONS, STEP_LABELS)


def test_labels_are_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    workspace = Store.open(tmp_path / "w")
    pipeline.run(label_recipe(tmp_path, mode="exact", completions=3), workspace, Silent())
    before = rows(workspace, STEP_LABELS)
    commit, fewer = Writer.commit, label_recipe(tmp_path, mode="exact", completions=2)

    def dies(self, shard, rows):
        if shard > 1:
            raise KeyboardInterrupt
        return commit(self, shard, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            pipeline.relabel(fewer, workspace, Silent())
    assert rows(workspace, STEP_LABELS) == before
    ledger = pipeline.relabel(fewer, workspace, Silent())
    assert (ledger.out, ledger.skipped) == (40, 0)
    assert set(workspace.read(STEP_LABELS)["m"].to_pylist()) == {0, 2}
    assert workspace.read(STEP_LABELS).num_rows == len(before[0])
    assert pipeline.relabel(fewer, workspace, Silent()).skipped == 40
