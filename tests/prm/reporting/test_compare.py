"""Two workspaces held against each other, the CSV, and the commands that make them."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_bed import Opener, needs_browser, violations
from report_testbed import (
    DOMAINS,
    NASTY,
    add_run,
    add_source,
    label_rows,
    make,
    reject_row,
    rollout_row,
)
from rich.console import Console
from scipy.stats import ttest_ind
from typer.testing import CliRunner

from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import COMPLETIONS, DROPS, JUDGEMENTS, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS, UPDATES
from curate.tables.store import Store
from prm.cli.app import app
from prm.render import difference, table, write
from prm.reporting import build, columns, compare, token_usage
from tests.beds.rows import commit


def two(folder, seeds=3):
    """A: bars_read is down and bars_sum up; B: the other way round, and needles is not in it."""
    places = []
    for name, swap in (("a", True), ("b", False)):
        workspace = Store.open(folder / name)
        for domain in ("bars_read", "bars_sum", "dots_count", *(["needles"] if swap else [])):
            add_source(workspace, domain, domain, "train", 3 + swap, DOMAINS[domain][1], None)
        weights = {"bars_read": 0.5 if swap else 1.5, "bars_sum": 1.5 if swap else 0.5, "dots_count": 1.0}
        for seed in range(seeds):
            add_run(workspace, f"seed-{seed}", seed, False, weights, 4)
        for seed in range(5):
            add_run(workspace, f"null-{seed}", seed, True, dict.fromkeys(weights, 1.0), 4)
        places.append(workspace)
    return places


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return two(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def compared(places):
    return compare.compare(*map(build.build, places))


samples = st.lists(st.floats(0.1, 3), min_size=2, max_size=8)


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(samples, samples)
def test_the_interval_is_welchs(a, b):
    found = compare.welch(a, b)
    if found.low == found.high:
        return
    theirs = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-6)


def test_an_interval_needs_two_runs_on_either_side(tmp_path):
    assert compare.welch([1.0], [1.0, 2.0]) is None
    assert compare.welch([1.0, 1.0], [0.5, 0.5]) == compare.Interval(0.5, 0.5, "welch")
    found = compare.compare(*map(build.build, two(tmp_path, seeds=1)))
    assert {change.moved for change in found.domains} == {"unknown"}
    assert {change.difference is None for change in found.domains if change.domain != "needles"} == {False}
    assert sum("one trained run" in note for note in found.notes) == 2


def test_what_moved_is_told_by_domain(places, compared):
    changes = {change.domain: change for change in compared.domains}
    assert (changes["bars_read"].moved, changes["bars_sum"].moved) == ("lighter", "heavier")
    assert changes["dots_count"].moved == "indistinguishable"
    last = [
        [row["weight"] for row in one.read(UPDATES).to_pylist()
         if (row["domain"], row["update"], row["null_control"]) == ("bars_sum", 4, False)]
        for one in places
    ]  # fmt: skip
    assert changes["bars_sum"].difference == pytest.approx(sum(last[0]) / 3 - sum(last[1]) / 3)
    assert changes["bars_sum"].interval.low > 0.7
    assert {change.domain for change in compared.verdicts} == {"bars_read", "bars_sum"}
    assert changes["bars_sum"].counts == {"problems": (4, 3), "rollouts": (8, 6), "labelled_steps": (32, 24)}
    assert changes["needles"].b is None
    assert changes["needles"].counts["problems"] == (4, None)
    # The largest difference first; needles, that no run weighs, last.
    assert [change.domain for change in compared.domains][2:] == ["dots_count", "needles"]


def test_weights_of_different_sets_are_put_on_one_scale(tmp_path):
    final = {"a": {"x": 1.2, "y": 0.8}, "b": {"x": 1.8, "y": 1.2, "z": 0.0001}}
    built = []
    for name, weights in final.items():
        workspace = Store.open(tmp_path / name)
        for domain in weights:
            add_source(workspace, domain, domain, "train", 2, 0.5, None)
        for seed in range(2):
            add_run(workspace, f"seed-{seed}", seed, False, weights, 1, noise=0.0)
        built.append(build.build(workspace))
    found = compare.compare(*built)
    # B's weights have a mean of 1.5 over x and y; on one scale nothing differs but the noise of the testbed.
    assert all(abs(change.difference) < 0.03 for change in found.domains if change.domain != "z")
    assert any("2 shared ones" in note for note in found.notes)


def test_every_form_tells_what_changed(compared, tmp_path):
    paths = write.write_difference(compared, tmp_path)
    assert sorted(paths) == ["csv", "html", "json", "markdown"]
    plain = json.loads(paths["json"].read_text())
    assert plain["schema"] == "curate-prm/difference/1"
    moved = {row["domain"]: row["moved"] for row in plain["domains"]}
    rows = list(csv.DictReader(io.StringIO(paths["csv"].read_text())))
    assert {row["domain"]: row["moved"] for row in rows} == moved
    needles = next(row for row in rows if row["domain"] == "needles")
    assert (needles["weight_a"], needles["problems_a"], needles["problems_b"]) == ("", "4", "")
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(difference.terminal(compared))
    terminal = console.file.getvalue()
    assert max(len(line) for line in terminal.splitlines()) <= 100
    for text in (terminal, paths["markdown"].read_text(), paths["html"].read_text()):
        assert "down → up" in text and "up → down" in text
        assert "problems 3 → 4" in text
        assert "2 of 3 domains have a weight that differs" in text


@needs_browser
def test_the_page_of_two_is_sound_in_either_theme(browser, compared, tmp_path):
    path = write.write_difference(compared, tmp_path)["html"]
    opener = Opener(browser, lambda url: url.startswith("data:") or url == path.as_uri())
    tab = opener(path.as_uri(), 400)
    assert tab.locator("#chart-difference svg.main-svg").count() > 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert violations(tab) == []
    tab.emulate_media(color_scheme="dark")
    assert violations(tab) == []
    opener.close()
    assert opener.trouble == []


# --- the command --------------------------------------------------------------------------------------------------


def prm(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)


def test_two_workspaces_by_one_short_command(places, compared):
    a, b = (place.root for place in places)
    done = prm("report", a, "--against", b, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [row["difference"] for row in told["domains"]] == [change.difference for change in compared.domains]
    assert (a / "reports" / "difference.html").is_file()
    assert not (b / "reports").exists()


def test_a_workspace_alone_is_reported_on_as_its_last_run_was(tmp_path):
    workspace = make(tmp_path / "w", seeds=1, nulls=0, train=2, test=2, nasty=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: mine\nreport: {chains: 3, browse: 5, theme: dark}\nselect: {sizes: [1, 2]}\n")
    assert prm("report", recipe, "-w", workspace.root).exit_code == 0
    page = workspace.root / "reports" / "report.html"
    first = page.read_text()
    assert first.count('<details class="chain"') == 3
    assert '"count":5' in (workspace.root / "reports" / "report-data" / "index.js").read_text()
    # The same without a recipe; then one key in place of the recipe's.
    assert prm("report", workspace.root).exit_code == 0
    assert page.read_text().count('<details class="chain"') == 3
    assert 'data-theme="dark"' in page.read_text()
    assert prm("report", "-w", workspace.root, "--set", "report.browse=0").exit_code == 0
    assert not page.read_text().count('id="browser-data"')
    assert not (workspace.root / "reports" / "report-data").exists()
    assert json.loads((workspace.root / "reports" / "report.json").read_text())["selection"]["sizes"] == [1, 2]


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["--port", "1"], "without --serve"),
        (["--serve", "--json"], "leave --json and --against out"),
        (["--serve", "--against", "b"], "leave --json and --against out"),
        (["--serve", "--set", "report.browse=0"], "report.browse is 0"),
        (["--against", "a"], "compared with itself"),
        (["--against", "nowhere"], "There is no workspace"),
        (["-w", "b"], "leave --workspace out"),
        (["--set", "train.lr=1"], "no effect on a report of a workspace"),
        (["--set", "report.brows=1"], 'did you mean "browse"'),
        (["--serve", "--port", "99999"], "between 0 and 65535"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(places, monkeypatch, words, cure):
    monkeypatch.chdir(places[0].root.parent)
    done = prm("report", "a", *words)
    assert done.exit_code == 1
    assert cure in str(done.exception)
    assert type(done.exception).__name__ == "UserError"


def test_a_target_that_is_nothing_is_said_to_be_neither(places, monkeypatch):
    monkeypatch.chdir(places[0].root)
    assert "neither a recipe nor a workspace" in str(prm("report", "gone", "-w", ".").exception)
    # Nor is the workspace of --workspace there: what was named first is what is missing.
    assert "neither a recipe nor a workspace at gone" in str(prm("report", "gone", "-w", "missing").exception)


# --- the facts behind the columns ------------------------------------------------------------------------------------


def drop_row(problem, by, reason):
    return {
        "problem_id": problem["problem_id"],
        "domain": problem["domain"],
        "role": problem["role"],
        "by": by,
        "reason": reason,
        "against": "x",
        "against_domain": "x",
        "against_role": "meta",
        "image_distance": None,
        "text_similarity": 1.0,
    }


def test_what_was_left_out_is_counted_by_its_kind(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "one", "one", "train", 6, 0.5, None)
    add_source(workspace, "test", "one", "test", 6, 0.5, None)
    reasons = ["duplicate", "duplicate", "overlaps-meta", "overlaps-test", "image-truncated"]
    rows = [reject_row("one", None) | {"source_row": str(n), "reason": reason} for n, reason in enumerate(reasons)]
    commit(workspace.partition(REJECTS, "more"), rows)
    problems = workspace.read(PROBLEMS).to_pylist()
    train = [row for row in problems if row["role"] == "train"]
    commit(
        workspace.partition(DROPS, "dedup"),
        [drop_row(row, "dedup", "near-duplicate") for row in problems if row["role"] == "test" or row in train[:3]],
    )
    commit(workspace.partition(DROPS, "decontaminate"), [drop_row(train[0], "decontaminate", "image-overlap")])
    facts = build.build(workspace).domains[0].facts
    # Ingest's own reject of the source is there, too; the test set's rows are not the training domain's.
    assert (facts.rejects, facts.duplicates, facts.contaminated) == (2, 2 + 3, 2 + 1)
    assert facts.consensus_kept is None


def test_tokens_are_those_of_the_tables(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 4, 0.5, None)
    add_source(workspace, "b", "a", "test", 2, 0.5, None)
    rollout = next(row for row in workspace.read(ROLLOUTS).to_pylist() if row["role"] == "train")
    vote = {
        "rollout_id": rollout["rollout_id"],
        "problem_id": rollout["problem_id"],
        "sample_index": 0,
        "steps_digest": "x",
        "first_error": -1,
        "verdicts": [True],
        "unread": None,
        "text": "",
        "finish": "stop",
        "prompt_tokens": 7,
        "tokens": 5,
        "seed": 1,
        "policy": "j",
    }
    commit(workspace.partition(JUDGEMENTS), [vote])
    given = rollout_row("p", "given", "train", 0, "3", True, random.Random(0)) | {"tokens": None, "prompt_tokens": None}
    commit(workspace.partition(ROLLOUTS, "given"), [given])
    completions = workspace.read(COMPLETIONS).to_pylist()
    found = {(one.domain, one.role): one for one in token_usage.spent(workspace)}
    train = found["a", "train"]
    assert train == token_usage.TokenUsage(
        "a", "train", 8 * 60, 30 * len(completions), 5, 8 * 40 + 50 * len(completions) + 7
    )
    assert found["a", "test"] == token_usage.TokenUsage("a", "test", 4 * 60, None, None, 4 * 40)
    assert found["given", "train"] == token_usage.TokenUsage("given", "train", None, None, None, None)
    facts = next(row for row in build.build(workspace).domains if row.domain == "a").facts
    assert (facts.rollout_tokens, facts.label_tokens, facts.judge_tokens) == (480, 30 * len(completions), 5)


def test_the_running_t_is_the_last_of_each_run(tmp_path):
    workspace = make(tmp_path / "w", train=2, test=2, nasty=False)
    built = build.build(workspace)
    rows = [row for row in workspace.read(UPDATES).to_pylist() if not row["null_control"] and row["update"] == 40]
    for row in built.domains:
        last = [each["t"] for each in rows if each["domain"] == row.domain]
        assert row.t.mean == pytest.approx(sum(last) / 3)
        assert (row.t.low, row.t.high) == (min(last), max(last))
    assert {curve.name for curve in built.running} == set(DOMAINS)
    assert all(None not in curve.values for curve in built.running)


# --- CSV ------------------------------------------------------------------------------------------------------------


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_a_domain_and_nulls_are_empty(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 3, 0.5, None)
    row = read(table.render(build.build(workspace)))[0]
    assert list(row) == [column.name for column in columns.COLUMNS if column.csv]
    assert (row["domain"], row["problems"], row["weight"], row["t"], row["judge_tokens"]) == ("a", "3", "", "", "")
    assert (row["duplicates"], row["too_hard"], row["verdict"]) == ("0", "false", "unknown")


def test_figures_of_the_csv_are_those_of_the_report(tmp_path):
    built = build.build(make(tmp_path / "w", train=3, test=2))
    rows = read(table.render(built))
    assert [float(row["weight"]) for row in rows] == [row.weight for row in built.domains]
    assert [float(row["t_low"]) for row in rows] == [row.t.low for row in built.domains]
    assert [row["licences"] for row in rows] == ["Apache-2.0"] * len(rows)
    # Negative figures stay figures: only texts are guarded.
    assert any(row["t"].startswith("-") for row in rows)
    assert len(rows) == len(built.domains)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\x00=1", "=\u202e1"])
def test_no_name_is_a_formula(tmp_path, name):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "odd", name, "train", 2, 0.5, None)
    text = table.render(build.build(workspace))
    shown = read(text)[0]["domain"]
    assert shown[0] in "'\ufffd"
    assert "\x00" not in text and "\u202e" not in text


@given(st.text())
def test_a_cell_is_one_line_and_no_formula(text):
    shown = table.cell(text)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "\n" not in shown and "\r" not in shown and "\x00" not in shown


def test_columns_are_described_and_named_once():
    for listed in (columns.COLUMNS, difference.difference_columns()):
        names = [column.name for column in listed]
        assert len(set(names)) == len(names)
        assert all(column.help for column in listed)


def test_a_nasty_domain_stays_in_its_row(tmp_path):
    built = build.build(make(tmp_path / "w", seeds=1, nulls=0, train=2, test=2))
    assert sum(row["domain"].startswith(NASTY[:20]) for row in read(table.render(built))) == 1


def test_undefined_labels_and_a_mode_without_verdicts_leave_cells_empty(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 2, 0.5, None, samples=1)
    add_source(workspace, "b", "b", "train", 2, 0.5, None, samples=1)
    chain = rollout_row("p", "a", "train", 0, "3", True, random.Random(0))
    labels = [
        row | {"k": 0, "m": 0, "value": None, "standard_error": None} for row in label_rows(chain, random.Random(0))
    ]
    commit(workspace.partition(STEP_LABELS), labels)
    add_run(workspace, "seed-0", 0, False, {"a": 1.0, "b": 1.0}, 1)
    lineage.write(workspace.partition(UPDATES, "seed-0"), "train", {"mode": "uniform"}, {}, Ledger("examples"))
    row = next(row for row in read(table.render(build.build(workspace))) if row["domain"] == "a")
    assert (row["undefined_steps"], row["verdict"], row["null_band_low"], row["t"]) == ("4", "unknown", "", "")
