"""The report from a whole workspace: figures, verdicts, and what every form shows."""

from __future__ import annotations

import io
import json
import random
import re
import statistics
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from report_testbed import (
    DOMAINS,
    NASTY,
    add_run,
    add_source,
    image_row,
    label_rows,
    make,
    reject_row,
    rollout_row,
)
from rich.console import Console

from curate.errors import UserError
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import IMAGES, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS, UPDATES
from curate.tables.store import Store
from prm.render import figures, markdown, terminal, write
from prm.reporting import build, formats, model, showcase, verdict
from prm.reporting.null_band import Band
from prm.sections import ReportConfig, SelectConfig
from tests.beds.rows import commit


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make(tmp_path_factory.mktemp("report") / "w")


@pytest.fixture(scope="module")
def built(workspace):
    return build.build(workspace)


def terminal_text(part, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(part)
    return console.file.getvalue()


def test_verdicts_are_the_known_truth(built):
    verdicts = {row.domain: row.verdict for row in built.domains}
    for domain, (weight, _, _) in DOMAINS.items():
        assert verdicts[domain] == ("up" if weight > 1.2 else "down" if weight < 0.7 else "indistinguishable"), domain
    weights = [row.weight for row in built.domains]
    assert weights == sorted(weights, reverse=True)
    assert [row.rank for row in built.domains] == list(range(1, len(weights) + 1))
    assert all(row.best_rank <= row.rank <= row.worst_rank for row in built.domains)


def test_weights_are_means_of_the_last_update(workspace, built):
    rows = workspace.read(UPDATES).to_pylist()
    last = [r["weight"] for r in rows if r["update"] == 40 and r["domain"] == "bars_sum" and not r["null_control"]]
    row = next(row for row in built.domains if row.domain == "bars_sum")
    assert row.weight == pytest.approx(sum(last) / 3)
    assert row.interval.method == "t"
    null = [r["weight"] for r in rows if r["update"] == 40 and r["null_control"] and r["domain"] == "bars_sum"]
    assert built.null_runs == row.band.runs == len(null) == 5
    assert row.band.low < min(null) < row.band.centre < max(null) < row.band.high


def test_dots_give_a_t_statistic_and_directions_a_mean_cosine(workspace, built):
    rows = workspace.read(UPDATES).to_pylist()
    for row in built.domains:
        dots = [r["dot"] for r in rows if r["domain"] == row.domain and not r["null_control"] and r["dot"] is not None]
        if dots:
            assert row.signal == pytest.approx(statistics.mean(dots) / statistics.stdev(dots) * len(dots) ** 0.5)
    assert built.cosine == pytest.approx(0.5)


def test_planted_defects_are_found_and_counted(built):
    planted = {row.domain: row.facts.planted for row in built.domains if row.facts.planted}
    assert planted == {domain: (defect,) for domain, (_, _, defect) in DOMAINS.items() if defect}
    # 3 bad by 6 clean: needles is too hard to count as clean.
    assert {run: (order.right, order.total) for run, order in built.planted.items()} == {
        f"seed-{seed}": (18, 18) for seed in range(3)
    }
    assert (built.planted_total.right, built.planted_total.total) == (54, 54)
    # The controls' weights go about 1 by chance: what they put in order is what the count above is to be held against.
    assert built.planted_controls.keys() == {f"null-{run}" for run in range(5)}
    assert built.controls_total.total == 90
    assert 0 < built.controls_total.right < 90
    said = figures.order_sentence(built)
    assert "54 of 54 (100 %)" in said
    assert f"With shuffled meta labels it is {built.controls_total.right} of 90" in said


def test_a_domain_that_is_too_hard_is_not_called_bad(built):
    row = next(row for row in built.domains if row.domain == "needles")
    assert row.too_hard
    assert "not the same as bad" in row.explanation
    assert [row.domain for row in built.domains if row.too_hard] == ["needles"]


def test_facts_by_hand(tmp_path):
    workspace, rng = Store.open(tmp_path / "w"), random.Random(0)
    add_source(workspace, "only", "only", "train", 2, 1.0, None, samples=1)
    problem = workspace.read(PROBLEMS).to_pylist()[0]
    extra = [
        rollout_row(problem["problem_id"], "only", "train", sample, "3", outcome, rng)
        for sample, outcome in ((5, False), (6, None), (7, False))
    ]
    for row, finish in zip(extra, ("length", "repetition", "error"), strict=True):
        row["finish"] = finish
    before = workspace.read(ROLLOUTS).to_pylist()
    assert [row["outcome"] for row in before] == [True, True]
    commit(workspace.partition(ROLLOUTS), extra)
    undefined = label_rows(extra[0], rng)
    for row in undefined:
        row |= {"k": 0, "m": 0, "value": None, "standard_error": None}
    commit(workspace.partition(STEP_LABELS), undefined)
    facts = build.build(workspace).domains[0].facts
    labels = [row for row in workspace.read(STEP_LABELS).to_pylist() if row["value"] is not None]
    assert (facts.problems, facts.rollouts, facts.rejects, facts.licences) == (2, 5, 1, ("Apache-2.0",))
    # Two right and two wrong ones are graded; one of five is undecided.
    assert (facts.accuracy, facts.undecided) == (0.5, pytest.approx(0.2))
    short = sum(row["finish"] == "length" for row in before)
    assert facts.truncated == pytest.approx((2 + short) / 5)
    assert (facts.labelled_steps, facts.undefined_steps) == (8, 4)
    assert facts.mean_label == pytest.approx(sum(row["value"] for row in labels) / 8)
    noise = [row["standard_error"] for row in labels if row["m"]]
    assert facts.label_noise == pytest.approx(sum(noise) / len(noise))


def test_rollouts_that_were_given_are_called_so(tmp_path):
    """Two imported rollouts, of which one has an outcome, beside two that were sampled here, and another domain's."""
    workspace, rng = Store.open(tmp_path / "w"), random.Random(1)
    add_source(workspace, "mixed", "mixed", "train", 2, 1.0, None, samples=1)
    add_source(workspace, "own", "own", "train", 1, 1.0, None, samples=1)
    before = [row["finish"] for row in workspace.read(ROLLOUTS).to_pylist() if row["domain"] == "mixed"]
    problem = next(row for row in workspace.read(PROBLEMS).to_pylist() if row["domain"] == "mixed")
    given = [
        rollout_row(problem["problem_id"], "mixed", "train", sample, "3", outcome, rng)
        | {"finish": None, "tokens": None, "policy": f"given:file:{model}"}
        for sample, outcome, model in ((8, False, "m"), (9, None, "n"))
    ]
    commit(workspace.partition(ROLLOUTS, "file"), given)
    built = build.build(workspace, ReportConfig(chains=0))
    facts = {row.domain: row.facts for row in built.domains}
    assert [(facts[name].given, facts[name].rollouts) for name in ("mixed", "own")] == [(2, 4), (0, 1)]
    assert facts["mixed"].accuracy == pytest.approx(2 / 3) and facts["mixed"].undecided == 0.25
    # Nobody knows how the given ones ended.
    assert facts["mixed"].truncated == sum(finish == "length" for finish in before) / 2
    said = "2 of 5 training rollouts were imported or came with a source, and were not sampled here (mixed 2 of 4)."
    paths = write.write_report(built, tmp_path / "out")
    assert said in terminal_text(terminal.render(built), 300)
    assert said in paths["html"].read_text() and "were not sampled here (mixed 2 of 4)" in paths["markdown"].read_text()
    assert json.loads(paths["json"].read_text())["domains"][0]["facts"]["given"] == 2
    assert "policy's" not in paths["html"].read_text().partition('id="reading"')[2]
    assert figures.given_sentence(build.build(workspace_of_own(tmp_path), ReportConfig(chains=0))) == ""


def workspace_of_own(folder):
    workspace = Store.open(folder / "own")
    add_source(workspace, "a", "a", "train", 1, 1.0, None, samples=1)
    return workspace


def test_test_rows_do_not_leak_into_the_table(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "train", "a", "train", 3, 0.5, None)
    add_source(workspace, "test", "a", "test", 5, 0.5, "wrong-gold")
    facts = build.build(workspace).domains[0].facts
    assert (facts.problems, facts.rollouts, facts.rejects, facts.planted) == (3, 6, 1, ())


def test_data_alone_makes_a_report_with_nulls(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 3, 0.5, None)
    built = build.build(workspace, ReportConfig(chains=0))
    row = built.domains[0]
    assert (row.weight, row.interval, row.rank, row.verdict) == (None, None, None, "unknown")
    assert (built.null_runs, built.selection, built.chains) == (0, None, ())
    assert any("prm train" in note for note in built.notes)
    paths = write.write_report(built, tmp_path / "out")
    assert json.loads(paths["json"].read_text())["domains"][0]["weight"] is None
    assert "0.00" not in terminal_text(terminal.render(built)).split("a: No weight")[0]


def test_an_empty_workspace_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="curate ingest"):
        build.build(Store.open(tmp_path / "w"))


def test_fixed_weights_get_no_verdict(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 3, 0.5, "wrong-gold")
    add_source(workspace, "b", "b", "train", 3, 0.5, None)
    add_run(workspace, "seed-0", 0, False, {"a": 1.0, "b": 1.0})
    lineage.write(workspace.partition(UPDATES, "seed-0"), "train", {"mode": "uniform"}, {}, Ledger("examples"))
    built = build.build(workspace)
    assert {row.verdict for row in built.domains} == {"unknown"}
    assert built.planted == {}
    assert all("given, not learned" in row.explanation for row in built.domains)


BAND = Band(0.9, 1.12, 1.0, 5)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(1.2, "up"), (1.12, "indistinguishable"), (0.8, "down"), (0.9, "indistinguishable"), (1.0, "indistinguishable")],
)
def test_a_verdict_needs_a_weight_outside_the_band(weight, expected):
    assert verdict.judge(weight, BAND) == expected
    assert verdict.judge(weight, None) == "unknown"


def test_an_interval_of_a_weight_has_nothing_below_zero():
    weights = (0.005, 0.009, 0.087)
    told = verdict.weigh({f"seed-{k}": {"a": w, "b": 2 - w} for k, w in enumerate(weights)}, {})
    assert told["a"].interval.low == 0 < told["a"].weight < told["a"].interval.high
    assert told["b"].interval.low < told["b"].weight < 2 < told["b"].interval.high


@pytest.mark.parametrize("final", [0.5, 1.5])
def test_sentences_claim_no_more_than_the_runs_show(final):
    band, runs = BAND, 3
    domains, bands = {"a": final, "b": 2 - final}, {"a": BAND, "b": BAND}
    many = verdict.weigh({f"seed-{seed}": domains for seed in range(runs)}, bands)["a"]
    one = verdict.weigh({"seed-0": domains}, bands)["a"]
    assert many.verdict == one.verdict == ("up" if final > 1 else "down")
    assert "teach" in verdict.explain(many, band, runs, 0.5, ())
    hard = verdict.explain(many, band, runs, 0.02, ())
    assert "teach" not in hard
    assert "no step signal" in hard
    told = "misses it" if final > 1 else "finds it"
    assert f"the weight {told}." in verdict.explain(many, band, runs, 0.5, ("wrong-gold",))
    assert "too few to say" in verdict.explain(one, band, 1, 0.5, ("wrong-gold",))
    assert "a factor of 2" in verdict.explain(many, band, runs, 0.5, (), least=2.0)
    assert "factor" not in verdict.explain(many, band, runs, 0.5, ())


def test_json_has_every_part_and_no_image(tmp_path, built):
    plain = json.loads(write.write_report(built, tmp_path)["json"].read_text())
    assert plain["schema"] == "curate-prm/report/3"
    assert set(plain) == {"schema"} | (set(model.Report.__dataclass_fields__) - {"images"})
    assert plain["domains"][0]["interval"]["low"] == built.domains[0].interval.low
    assert plain["planted"]["seed-0"] == {"right": 18, "total": 18}
    assert plain["selection"]["sizes"] == [1, 2, 4, 8]
    assert all(row["taken"] == row["out"] + row["rejected"] for row in plain["ledger"])


def test_the_ledger_says_when_it_does_not_add_up(built):
    assert all(one.adds_up for one in built.ledger)
    wrong = model.Account("s", "t", "p", "rows", 10, 8, 0, 1, 0, None, True)
    open_one = model.Account("s", "t", "p", None, None, None, None, None, None, None, False)
    assert (wrong.adds_up, open_one.adds_up) == (False, None)


def test_terminal_fits_a_hundred_columns_and_cuts_no_figure(built):
    text = terminal_text(terminal.render(built))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    for row in built.domains:
        assert f"{row.weight:.2f}  {row.interval.low:.2f}–{row.interval.high:.2f}" in text
    assert "54 of 54" in text
    assert "Best of 8" in text


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "evil\x1b[2J[bold]\u202ename", "train", 2, 0.5, None)
    text = terminal_text(terminal.render(build.build(workspace)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


def test_markdown_is_one_row_a_domain_and_no_markup_from_names(built):
    text = markdown.render(built)
    table = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [line.replace("\\|", "").count("|") for line in table]
    assert cells[: 2 + len(built.domains)] == [24] * (2 + len(built.domains))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("text", ["a\\<b", "x | y", "`code`", "a\nb", "[x](y)", "\\", "&lt;"])
def test_escaped_text_has_no_bare_markup(text):
    escaped = markdown.escape(text)
    assert "<" not in escaped
    assert "\n" not in escaped
    assert "`" not in escaped.replace("\\`", "")
    assert "|" not in escaped.replace("\\|", "")
    assert text == "\\" or "&lt;" not in escaped or "<" in text or escaped == "&amp;lt;"


def test_chains_are_spread_over_domains_roles_and_outcomes(workspace, built):
    assert len(built.chains) == 60
    assert {chain.role for chain in built.chains} == {"train", "test"}
    assert {chain.domain for chain in built.chains} == {*DOMAINS, NASTY}
    assert {chain.outcome for chain in built.chains} == {True, False}
    assert all(step.score is not None for chain in built.chains if chain.role == "test" for step in chain.steps)
    assert all(step.value is not None for chain in built.chains if chain.role == "train" for step in chain.steps)
    again = build.build(workspace, ReportConfig(chains=60), SelectConfig())
    assert again.chains == built.chains


def test_large_images_are_reduced_and_the_budget_holds(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 1, 0.5, None, samples=1)
    noise = Image.effect_noise((1500, 900), 60)
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    large = image_row(buffer.getvalue(), "x", size=noise.size)
    commit(workspace.partition(IMAGES, "large"), [large])
    small = workspace.partition(IMAGES, "a").read().to_pylist()[0]
    chain = showcase.chains(workspace, 1)[0]
    pair = type(chain)(**(vars(chain) | {"image_hashes": (small["image_hash"], large["image_hash"])}))
    found = showcase.images(workspace, [pair])
    assert found[small["image_hash"]].uri.startswith("data:image/png")
    reduced = found[large["image_hash"]]
    assert reduced.uri.startswith("data:image/webp")
    assert max(reduced.width, reduced.height) == 480
    assert len(reduced.uri) < len(large["bytes"]) / 2
    kept = showcase.images(workspace, [pair], budget=len(small["bytes"]))
    assert [image.uri is None for _, image in sorted(kept.items())].count(True) == 1


def test_reporting_imports_no_torch():
    modules = "prm.reporting.build, prm.scoring.select, prm.render.page, prm.stages"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def pair(path, **runs):
    """Two domains, a (bad) and b, with the given runs: name -> (weight of a, weight of b)."""
    workspace = Store.open(path)
    add_source(workspace, "a", "a", "train", 3, 0.5, "wrong-gold")
    add_source(workspace, "b", "b", "train", 3, 0.5, None)
    for number, (run, (a, b)) in enumerate(runs.items()):
        add_run(workspace, run.replace("_", "-"), number, run.startswith("null"), {"a": a, "b": b}, 4, noise=0.0)
    return workspace


def test_a_bad_domain_on_top_is_a_wrong_pair(tmp_path):
    built = build.build(pair(tmp_path, seed_0=(1.5, 0.5), seed_1=(0.5, 1.5)))
    assert (built.planted["seed-0"].right, built.planted["seed-1"].right) == (0, 1)
    assert (built.planted_total.right, built.planted_total.total) == (1, 2)
    assert built.agreement == -1


@pytest.mark.parametrize(
    ("runs", "method", "words", "note"),
    [
        (1, "single", "one run, so no interval", "there are no intervals"),
        (2, "range", "(range 1.", "the range of the runs"),
        (3, "t", "(95 % interval 1.", ""),
    ],
)
def test_the_interval_says_how_it_was_made(tmp_path, runs, method, words, note):
    seeds = {f"seed_{seed}": (0.5 + seed / 100, 1.5 - seed / 100) for seed in range(runs)}
    nulls = {f"null_{run}": (0.96 + 0.02 * run, 1.04 - 0.02 * run) for run in range(5)}
    built = build.build(pair(tmp_path, **seeds, **nulls))
    row = built.domains[0]
    assert (row.domain, row.verdict, row.interval.method) == ("b", "up", method)
    assert words in row.explanation
    assert [note in one for one in built.notes if "trained run" in one] == ([True] if note else [])


@pytest.mark.parametrize(
    "runs", [{"seed_0": (0.5, 1.5)}, {"null_0": (1.0, 1.0)}, {"seed_0": (0.5, 1.5), "null_0": (1.0, 1.0)}]
)
def test_a_chain_that_is_not_finished_still_makes_every_form(tmp_path, runs):
    built = build.build(pair(tmp_path, **runs))
    paths = write.write_report(built, tmp_path / "reports")
    assert sorted(paths) == ["csv", "html", "json", "markdown"]
    for path in paths.values():
        assert all(row.domain in path.read_text() for row in built.domains)
    judged = "seed_0" in runs and "null_0" in runs
    assert all((row.verdict == "unknown") != judged for row in built.domains)
    assert {row.weight is None for row in built.domains} == {"seed_0" not in runs}


def test_a_source_without_lineage_or_of_another_kind_has_no_defect(tmp_path):
    workspace = pair(tmp_path)
    (workspace.partition(PROBLEMS, "a").folder / lineage.FILE).unlink()
    lineage.write(workspace.partition(PROBLEMS, "b"), "ingest", {"name": "b", "role": "train"}, {}, Ledger("rows"))
    assert {row.facts.planted for row in build.build(workspace).domains} == {()}


def test_a_reject_of_no_domain_is_counted_apart(tmp_path):
    workspace = pair(tmp_path)
    commit(workspace.partition(REJECTS, "gone"), [reject_row("gone", None)])
    built = build.build(workspace)
    assert built.unattributed_rejects == 1
    assert {row.facts.rejects for row in built.domains} == {1}


def test_agreement_is_the_mean_tau_over_pairs_of_runs():
    final = {"one": {"a": 1, "b": 2, "c": 3}, "two": {"a": 1, "b": 3, "c": 2}, "three": {"a": 1, "b": 2, "c": 3}}
    assert verdict.agreement(final) == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert verdict.agreement({"one": {"a": 1.0, "b": 2.0}}) is None


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0.001, 0.5))
def test_a_verdict_turns_round_with_the_weights(weight, centre, width):
    """Up and down are mirror images, and inside the band there is no verdict."""
    assume(abs(abs(weight - centre) - width) > 1e-9)
    band = Band(centre - width, centre + width, centre, 5)
    told, mirrored = verdict.judge(weight, band), verdict.judge(2 * centre - weight, band)
    assert mirrored == {"up": "down", "down": "up"}.get(told, told)
    assert (told == "indistinguishable") == (abs(weight - centre) <= width)


@given(st.text())
def test_no_text_steers_a_terminal_or_breaks_a_markdown_cell(text):
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", formats.plain(text))
    cell = markdown.escape(text)
    assert "\n" not in cell and "<" not in cell
    assert not re.search(r"(?<!\\)(\\\\)*\|", cell)


def test_missing_is_a_dash_and_zero_is_a_zero():
    assert {formats.number(None), formats.percent(None), formats.count(None), formats.spread(None)} == {"–"}
    assert (formats.number(0.0), formats.percent(0.0), formats.count(0)) == ("0.00", "0 %", "0")
