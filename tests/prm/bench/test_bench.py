"""Figures of benchmarks against the benchmarks' own scorers, written anew; reading, resampling, thresholds."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_testbed import (
    KINDS,
    SCORES,
    prmbench_rows,
    prmbench_scorer,
    processbench_rows,
    processbench_scorer,
    scored_chains,
    visualprocessbench_rows,
    visualprocessbench_scorer,
    write_lines,
)

from curate import pipeline as recipes
from curate.errors import UserError
from curate.recipe.shipped import find
from curate.sources import open_source
from curate.sources.files import FileReader
from prm import metrics
from prm.bench import read, resample, run
from prm.bench.config import AnyVerdictConfig, CalibrationConfig, HeldOutThreshold, settings
from prm.bench.resample import Figure
from prm.bench.suites.base import Judge, ScoredRollout
from prm.bench.suites.catalog import BENCHMARKS


def measured(name: str, scored: list[ScoredRollout], judge: Judge) -> dict:
    benchmark = BENCHMARKS[name]
    rows = [(each.chain.problem, each.chain.group, benchmark.count(each, judge)) for each in scored]
    counted = resample.tally(rows, benchmark.stratified)
    return benchmark.measure(counted.sums, counted.groups)


def written(name: str, scored: list[ScoredRollout], judge: Judge, folder) -> None:
    folder.mkdir(exist_ok=True)
    for file, text in BENCHMARKS[name].files(scored, judge, "seed-0"):
        (folder / file).write_text(text)


@pytest.mark.parametrize("seed", range(25))
def test_visualprocessbench_is_what_its_scorer_makes_of_our_file(tmp_path, seed):
    rng = random.Random(seed)
    # From one chain, where classes and sources are missing, to many.
    path = write_lines(tmp_path / "test.jsonl", visualprocessbench_rows(rng, [1, 2, 4, 30, 60][seed % 5], tmp_path))
    levels = {0: (0.9,), 1: (0.1,)}.get(seed // 5, SCORES)
    scored = scored_chains("visualprocessbench", path, rng, levels=levels)
    judge = Judge(0.5, "left-out")
    values = measured("visualprocessbench", scored, judge)
    written("visualprocessbench", scored, judge, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "visualprocessbench.jsonl").read_text().splitlines()]
    assert len(rows) == len(scored)
    theirs = visualprocessbench_scorer(rows)
    assert values[None, "macro_f1"] == pytest.approx(theirs.get("pooled"))
    assert values[None, "overall"] == pytest.approx(theirs.get("overall"))
    for group in {each.chain.group for each in scored}:
        assert values[group, "macro_f1"] == pytest.approx(theirs.get(group))


def test_the_public_scorer_of_prm_scores_reads_the_second_file(tmp_path):
    rng = random.Random(4)
    path = write_lines(tmp_path / "test.jsonl", visualprocessbench_rows(rng, 40, tmp_path))
    # Without ties: that scorer has `>=`.
    scored = scored_chains("visualprocessbench", path, rng, levels=(0.2, 0.4, 0.6, 0.8))
    judge = Judge(0.5, "left-out")
    written("visualprocessbench", scored, judge, tmp_path / "out")
    items = json.loads((tmp_path / "out" / "visualprocessbench_scores.json").read_text())
    pairs = []
    for item in items:
        scores = item["prm_scores"][0] if item["prm_scores"] else []
        # It zips, so that a chain without scores says nothing.
        pairs += [(y, 1 if s >= 0.5 else -1) for y, s in zip(item["labels_per_step"], scores) if y != 0]  # noqa: B905
    f1 = []
    for side in (1, -1):
        hits = sum(y == p == side for y, p in pairs)
        misses = sum((y == side) != (p == side) for y, p in pairs)
        f1.append(2 * hits / (2 * hits + misses))
    assert measured("visualprocessbench", scored, judge)[None, "macro_f1"] == pytest.approx(sum(f1) / 2)


@pytest.mark.parametrize("seed", range(12))
def test_processbench_is_what_its_scorer_makes_of_our_files(tmp_path, seed):
    rng = random.Random(seed)
    subsets = ("gsm8k", "math", "olympiadbench", "omnimath")
    for subset in subsets:
        rows = processbench_rows(rng, 40, subset)
        # Both kinds are there, as in every published subset.
        rows[0]["label"], rows[1]["label"] = -1, 0
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{subset}.json").write_text(json.dumps(rows))
    levels = {0: (0.9,), 1: (0.1,)}.get(seed, SCORES)
    scored = scored_chains("processbench", tmp_path / "data", rng, levels=levels)
    assert len(scored) == 160
    judge = Judge(0.5, "wrong")
    values = measured("processbench", scored, judge)
    written("processbench", scored, judge, tmp_path / "out")
    averaged = []
    for subset in subsets:
        error, correct, f1 = processbench_scorer(tmp_path / "out", subset)
        assert values[subset, "error_accuracy"] == pytest.approx(error)
        assert values[subset, "correct_accuracy"] == pytest.approx(correct)
        assert values[subset, "f1"] == pytest.approx(f1)
        averaged.append(f1)
        whole = [each for each in scored if each.chain.group == subset]
        found = [BENCHMARKS["processbench"].prediction(each, judge) for each in whole]
        plain = [None if guess == -1 else math.inf if guess is None else guess for guess in found]
        true = [None if each.chain.record["label"] == -1 else each.chain.record["label"] for each in whole]
        # The same figure as the trainer's validation has it.
        assert values[subset, "f1"] == pytest.approx(metrics.first_error_f1(plain, true))
    assert values[None, "average_f1"] == pytest.approx(sum(averaged) / 4)


@pytest.mark.parametrize("seed", range(15))
def test_prmbench_is_what_its_scorer_makes_of_our_file(tmp_path, seed):
    rng = random.Random(seed)
    records = prmbench_rows(rng, [1, 3, 20][seed % 3])
    records.append(records[0] | {"error_steps": [1]})  # its loader takes the first of a name
    path = write_lines(tmp_path / "all.jsonl", records)
    levels = {0: (0.9,), 1: (0.1,)}.get(seed, SCORES)
    scored = scored_chains("prmbench", path, rng, levels=levels)
    judge = Judge(0.5, "left-out")
    values = measured("prmbench", scored, judge)
    written("prmbench", scored, judge, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "prmtest_classified.jsonl").read_text().splitlines()]
    # All of them, or its assertion on the number of results fails.
    assert len({line["results"]["idx"] for line in lines}) == len(lines) == len(records) - 1 + [1, 3, 20][seed % 3]
    assert {line["task_name"] for line in lines} == {"prmtest_classified"}
    theirs = prmbench_scorer(records, lines)
    assert values[None, "prmscore"] == pytest.approx(theirs["total"])
    known = [kind for kind in KINDS if kind in theirs]
    assert {kind: values[kind, "prmscore"] for kind in known} == pytest.approx({kind: theirs[kind] for kind in known})
    if {"redundency", "circular"} <= theirs.keys():
        assert values[None, "simplicity"] == pytest.approx((theirs["redundency"] + theirs["circular"]) / 2)
    assert ("correct", "prmscore") not in values or values["correct", "prmscore"] is None


def test_a_missing_score_is_a_wrong_verdict_whatever_the_truth(tmp_path):
    rng = random.Random(1)
    rows = visualprocessbench_rows(rng, 30, tmp_path)
    scored = scored_chains("visualprocessbench", write_lines(tmp_path / "test.jsonl", rows), rng, missing=0)
    perfect = [replace(each, scores=tuple(0.9 if label else 0.1 for label in each.chain.labels)) for each in scored]
    assert measured("visualprocessbench", perfect, Judge(0.5))[None, "macro_f1"] == 1
    gone = [replace(each, scores=(None,) * len(each.scores)) for each in perfect[:10]] + perfect[10:]
    labels = Counter(label for each in gone[:10] for label in each.chain.labels)
    every = Counter(label for each in gone for label in each.chain.labels)
    # All missing ones of a class are misses of it, and false alarms of the other.
    expected = [metrics.f1(every[side] - labels[side], labels[not side], labels[side]) for side in (True, False)]
    assert measured("visualprocessbench", gone, Judge(0.5))[None, "macro_f1"] == pytest.approx(sum(expected) / 2)
    assert measured("visualprocessbench", gone, Judge(0.5, "left-out"))[None, "macro_f1"] == 1


def test_labels_follow_the_published_conventions(tmp_path):
    rng = random.Random(0)
    row = processbench_rows(rng, 1, "math")[0] | {"steps": ["a", "b", "c"], "label": 1}
    right = row | {"id": "math-7", "label": -1}
    loaded = read.load(BENCHMARKS["processbench"], str(write_lines(tmp_path / "p.jsonl", [row, right])))
    assert [chain.labels for chain in loaded.chains] == [(True, False, None), (True, True, True)]
    visual = visualprocessbench_rows(rng, 1, tmp_path)[0]
    visual["response"] = {"steps": ["a", "b", " "], "process_correctness": [1, 0, -1]}
    as_text = visual | {"response": json.dumps(visual["response"]), "image": repr(visual["image"])}
    loaded = read.load(BENCHMARKS["visualprocessbench"], str(write_lines(tmp_path / "v.jsonl", [visual, as_text])))
    for chain in loaded.chains:
        assert (chain.labels, chain.steps, chain.lacks) == ((True, None, False), ("a", "b", ""), None)
        assert chain.images
    prm = prmbench_rows(rng, 1, ("redundency",))[0] | {"modified_process": ["a", "b"], "error_steps": [2, 9]}
    loaded = read.load(BENCHMARKS["prmbench"], str(write_lines(tmp_path / "r.jsonl", [prm])))
    assert [(chain.name, chain.group) for chain in loaded.chains] == [
        ("correct_prm_test_p1_0", "correct"), ("redundency_prm_test_p1_0", "redundency")
    ]  # fmt: skip
    assert all(loaded.chains[0].labels)
    assert loaded.chains[1].labels == (True, False)
    assert loaded.chains[0].problem == loaded.chains[1].problem


@pytest.mark.parametrize("name", ["visualprocessbench", "processbench"])
def test_chains_are_read_as_ingest_reads_them(tmp_path, name):
    rng = random.Random(3)
    rows = visualprocessbench_rows(rng, 6, tmp_path) if name[0] == "v" else processbench_rows(rng, 6, "gsm8k")
    if name[0] == "v":
        rows[0]["question"] = (
            "<image>\nWhich bar?\nA. red\nB. blue\nAnswer with the option's letter from the given choices."
        )
    path = write_lines(tmp_path / "test.jsonl", rows)
    config = recipes.load(find(Path(name))).section("ingest").sources[0]
    if name[0] == "v":
        source = open_source(config, tmp_path)
    else:
        from curate.recipe.source_sections import FilesSource

        mapped = FilesSource(kind="files", name="x", path=path, columns=config.columns, chain=config.chain)
        source = FileReader(mapped, tmp_path)
    ours = read.load(BENCHMARKS[name], str(path)).chains
    for chain, row in zip(ours, source.rows(), strict=True):
        example = chain.example(0)
        assert (chain.question, chain.choices) == (row.question, tuple(row.choices))
        assert example.steps == tuple(row.chain.steps)
        assert example.values == tuple(row.chain.values)
        assert chain.images == tuple(row.images)


def test_what_cannot_be_read_is_counted_by_reason(tmp_path):
    rows = processbench_rows(random.Random(0), 6, "math")
    rows[0]["steps"], rows[1]["label"], rows[2]["label"] = [], 99, "x"
    rows[3]["id"] = "../../math-3"
    path = write_lines(tmp_path / "math.jsonl", rows)
    path.write_text(path.read_text() + "{not json\n")
    loaded = read.load(BENCHMARKS["processbench"], str(path))
    assert dict(loaded.ledger.rejected) == {
        "no-steps": 1, "unusable-label": 2, "unusable-value": 1, "malformed-line": 1
    }  # fmt: skip
    assert (loaded.ledger.taken, loaded.ledger.out, len(loaded.chains)) == (7, 2, 2)
    assert [row.row for row in loaded.unread] == [1, 2, 3, 4, 7]


def test_images_stay_in_their_folder_and_missing_ones_are_named(tmp_path):
    rows = visualprocessbench_rows(random.Random(0), 4, tmp_path / "inside")
    (tmp_path / "secret.png").write_bytes(b"x")
    rows[0]["image"], rows[1]["image"], rows[2]["image"] = ["../secret.png"], ["images/none.png"], []
    path = write_lines(tmp_path / "inside" / "test.jsonl", rows)
    chains = read.load(BENCHMARKS["visualprocessbench"], str(path)).chains
    assert [chain.lacks and chain.lacks.reason for chain in chains] == [
        "image-outside-root", "image-missing", "no-image", None
    ]  # fmt: skip
    elsewhere = write_lines(tmp_path / "elsewhere" / "test.jsonl", rows)
    assert read.load(BENCHMARKS["visualprocessbench"], str(elsewhere)).chains[3].lacks.reason == "image-missing"
    found = read.load(BENCHMARKS["visualprocessbench"], str(elsewhere), tmp_path / "inside")
    assert found.chains[3].images == chains[3].images


def test_a_hub_dataset_comes_through_datasets(tmp_path):
    rows = processbench_rows(random.Random(0), 3, "gsm8k")
    folder = tmp_path / "hub"
    for subset in ("gsm8k", "math", "olympiadbench", "omnimath"):
        named = [row | {"id": row["id"].replace("gsm8k", subset)} for row in rows]
        write_lines(folder / "data" / f"{subset}.jsonl", named)
    # The published card's own configuration.
    files = "".join(f"      - split: {s}\n        path: data/{s}.jsonl\n" for s in BENCHMARKS["processbench"].splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n  - config_name: default\n    data_files:\n{files}---\n")
    loaded = read.load(BENCHMARKS["processbench"], str(folder), limit=2)
    assert [chain.name for chain in loaded.chains][:3] == ["gsm8k-0", "gsm8k-1", "math-0"]
    assert len(loaded.chains) == 8
    with pytest.raises(UserError, match="cannot be opened"):
        read.load(BENCHMARKS["processbench"], "nobody/has-this")


def test_intervals_cover_the_truth_as_often_as_they_say_and_problems_stay_together():
    rng, hits, by_steps = np.random.default_rng(5), 0, 0

    def measure(sums, groups):
        return {(None, "share"): float(sums[0, 0] / sums[0].sum())}

    for place in range(200):
        chances = rng.beta(1, 1, size=60)
        rows = [(str(p), "a", [k := int(rng.binomial(8, chance)), 8 - k]) for p, chance in enumerate(chances)]
        found = resample.figures(resample.tally(rows, False), measure, 300, place)[None, "share"]
        hits += found.low <= 0.5 <= found.high
        half = 1.96 * math.sqrt(0.25 / 480)
        by_steps += abs(found.value - 0.5) <= half
    # Of 95 %; steps taken for independent would claim far more than they know.
    assert hits >= 180
    assert by_steps < 160


def test_resamples_keep_groups_and_say_nothing_where_there_is_nothing():
    rows = [
        (f"{group}{place}", group, [1.0, place % 2]) for group, size in (("a", 9), ("b", 1)) for place in range(size)
    ]

    def measure(sums, groups):
        assert sums[:, 0].tolist() == [9, 1]
        return {("a", "x"): float(sums[0, 1]), ("b", "x"): float(sums[1, 1]), (None, "never"): None}

    found = resample.figures(resample.tally(rows, True), measure, 200, 0)
    assert found["a", "x"].low < 4 < found["a", "x"].high
    # One problem alone has no interval; a figure without value none either.
    assert found["b", "x"] == Figure(0.0)
    assert found[None, "never"] == Figure(None)
    assert found == resample.figures(resample.tally(rows, True), measure, 200, 0)
    assert found != resample.figures(resample.tally(rows, True), measure, 200, 1)


def chains_with_signal(tmp_path, count: int = 300) -> list[ScoredRollout]:
    """Right steps score about 0.3, wrong ones about 0.2: at 0.5 nothing is right."""
    rng = random.Random(2)
    path = write_lines(tmp_path / "test.jsonl", visualprocessbench_rows(rng, count, tmp_path))
    return [
        ScoredRollout(chain, tuple(min(max(rng.gauss(0.32 if label else 0.2, 0.08), 0), 1) for label in chain.labels))
        for chain in read.load(BENCHMARKS["visualprocessbench"], str(path)).chains
    ]


def test_a_tuned_threshold_is_chosen_on_problems_that_the_figures_leave_out(tmp_path):
    scored, benchmark = chains_with_signal(tmp_path), BENCHMARKS["visualprocessbench"]
    config = HeldOutThreshold(held_out=0.3, resamples=100)
    used, held, rule = run._parts(scored, config)
    assert not {each.chain.problem for each in used} & {each.chain.problem for each in held}
    assert len(used) + len(held) == len(scored)
    assert 0.2 < len(held) / len(scored) < 0.4
    chosen = run._best(benchmark, held, config)
    # What is evaluated has no say in it.
    turned = [replace(each, scores=tuple(1 - score for score in each.scores)) for each in used]
    assert run._best(benchmark, run._parts([*turned, *held], config)[1], config) == chosen
    assert 0.2 < chosen < 0.32
    fixed, tuned = (run._headline(benchmark, used, value, config) for value in (0.5, chosen))
    assert tuned > fixed + 0.2
    assert "leave out" in rule


def test_settings_without_an_effect_are_refused():
    for given, word in (
        (["tune=held-out", "threshold=0.4"], r'threshold" .* has no effect with tune held-out'),
        (["held_out=0.4"], r'held_out" .* has no effect with tune null: it belongs to tune held-out'),
        (["treshold=0.4"], "threshold"),
        (["threshold=1.5"], "less than 1"),
        (["bins=4"], "bins"),
    ):
        with pytest.raises(UserError, match=word):
            settings(AnyVerdictConfig, given)
    with pytest.raises(UserError, match="threshold"):
        settings(CalibrationConfig, ["threshold=0.5"])
    assert settings(CalibrationConfig, ["target=truth", "bins=4"]).bins == 4
