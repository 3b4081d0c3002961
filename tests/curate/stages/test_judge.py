"""A second opinion through the stage: asked once, kept apart, counted, refused where mixed, and worth what it says."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.engines import worlds
from curate.errors import BudgetError, UserError
from curate.runtime.reporter import Silent
from curate.stages.judge import judgement
from curate.tables.schema import EXAMPLES, JUDGEMENTS, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store
from curate.text import prompts
from prm.reporting import exclusions

WORLD = "decisive"


class Told(Silent):
    """Remembers what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def workspace(tmp_path):
    return Store.open(tmp_path / "w")


@pytest.fixture
def run(tmp_path, workspace):
    """Run a recipe on simulated chains and a simulated judge; sections as given, `faults` are the judge's."""

    def go(only=(), replace=(), reporter=None, faults=None, problems=12, tables=workspace, **sections):
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe(tmp_path, problems, faults or {}, sections)))
        return pipeline.run(pipeline.load(path), tables, reporter or Silent(), only, frozenset(replace))

    return go


def recipe(folder, problems, faults, sections):
    lines = [{"question": f"Problem {n} [gold={n}]", "answer": str(n)} for n in range(problems)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = {"kind": "simulated", "model": "world", "in_flight": 16, "args": {"world": WORLD, "steps": None}}
    rollout = {"engine": engine, "samples": 3, "prompt": "free", "sampling": {"max_tokens": 2000}}
    rates = {"false_alarm": 0.1, "miss": 0.1}
    judge = {"engine": {"kind": "simulated", "model": "judge", "args": rates | faults}}
    return {
        "name": "t",
        "seed": 3,
        "ingest": {"sources": [{"kind": "files", "name": "rows", "path": "rows.jsonl"}]},
        "rollout": rollout | sections.get("rollout", {}),
        "label": sections.get("label", {}),
        "judge": judge | {"error_budget": 1.0} | sections.get("judge", {}),
        "shard": sections.get("shard", {}),
    }


def judgements(workspace):
    return {(row["rollout_id"], row["sample_index"]): row for row in workspace.read(JUDGEMENTS).to_pylist()}


def test_every_labelled_rollout_is_judged_once_and_no_label_changes(run, workspace):
    run(["ingest", "rollout", "label"])
    labels = sorted(map(str, workspace.read(STEP_LABELS).to_pylist()))
    told = Told()
    ledger = run(["judge"], reporter=told)["judge"]
    rollouts = {row["rollout_id"]: row for row in workspace.read(ROLLOUTS).to_pylist()}
    found = judgements(workspace)
    assert {name for name, _ in found} == rollouts.keys()
    assert (ledger.taken, ledger.out, ledger.skipped, len(found)) == (36, 36, 0, 36)
    for (name, _), row in found.items():
        steps = len(rollouts[name]["steps"])
        assert row["first_error"] == judgement.read(row["text"], steps).first_error
        assert row["verdicts"] == judgement.verdicts(row["first_error"], steps)
        assert (row["unread"], row["tokens"]) == (None, len(row["text"]))
    assert sorted(map(str, workspace.read(STEP_LABELS).to_pylist())) == labels
    spent, read = (sum(row[key] for row in found.values()) for key in ("tokens", "prompt_tokens"))
    assert told.notes[-1] == f"36 judgements, {spent:,} tokens generated on {read:,} of prompts."
    # Both opinions stand beside each other, and none is masked unasked.
    run(["shard"])
    assert exclusions.consensus_kept(workspace) == {}
    for row in workspace.read(EXAMPLES).to_pylist():
        assert row["verdicts"] == found[row["rollout_id"], 0]["verdicts"]
        assert (set(row["weights"]), set(row["masks"])) == ({1.0}, {None})


def test_again_asks_nothing_and_more_votes_and_rollouts_add_only_what_is_missing(run, workspace, tmp_path):
    warm = {"sampling": {"temperature": 1.0}}
    run(judge=warm | {"limit": 10})
    first = judgements(workspace)
    assert len(first) == 10
    assert run(["judge"], judge=warm | {"limit": 10})["judge"].skipped == 10
    run(["judge"], judge=warm | {"limit": 20})
    second = judgements(workspace)
    assert len(second) == 20
    assert first.items() <= second.items()
    ledger = run(["judge"], judge=warm | {"samples": 3})["judge"]
    assert (ledger.taken, ledger.skipped) == (36 * 3, 20)
    third = judgements(workspace)
    assert second.items() <= third.items()
    assert len({row["seed"] for row in third.values()}) == len(third) == 36 * 3
    # The same votes however they were shared out over requests.
    straight = Store.open(tmp_path / "straight")
    run(judge=warm | {"samples": 3}, tables=straight)
    assert judgements(straight) == third


@pytest.mark.parametrize(("fault", "reason"), [("reject_rate", "request-rejected"), ("error_rate", "engine-error")])
def test_a_failed_request_is_a_reject_and_owed_again_never_an_opinion(run, workspace, fault, reason):
    ledger = run(faults={fault: 0.3})["judge"]
    failed = [row for row in workspace.read(REJECTS).to_pylist() if row["stage"] == "judge"]
    assert ledger.failed == {reason: len(failed)}
    assert 0 < len(failed) < 36
    assert len(judgements(workspace)) == 36 - len(failed)
    assert run(["judge"])["judge"].out == 36
    assert not [row for row in workspace.read(REJECTS).to_pylist() if row["stage"] == "judge"]


def test_too_many_failures_are_told_and_what_is_done_is_kept(run, workspace):
    with pytest.raises(BudgetError, match="above the error budget of 2%"):
        run(faults={"reject_rate": 0.3}, judge={"error_budget": 0.02})
    assert 0 < len(judgements(workspace)) < 36


def test_an_answer_that_cannot_be_read_is_null_and_no_vote(run, workspace):
    told = Told()
    warm = {"sampling": {"temperature": 1.0}, "samples": 3}
    run(faults={"unreadable": 0.4}, judge=warm, reporter=told)
    rows = judgements(workspace).values()
    unread = [row for row in rows if row["first_error"] is None]
    assert 0.2 * len(rows) < len(unread) < 0.6 * len(rows)
    assert {(row["verdicts"], row["unread"]) for row in unread} == {(None, "no-verdict")}
    assert any(f"{len(unread)} cannot be read (no-verdict {len(unread)})" in note for note in told.notes)
    votes = {}
    for row in sorted(rows, key=lambda row: row["sample_index"]):
        votes.setdefault(row["rollout_id"], []).append(row["first_error"])
    for row in workspace.read(EXAMPLES).to_pylist():
        assert row["verdicts"] == judgement.majority(votes[row["rollout_id"]], len(row["steps"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampling": {"max_tokens": 500}}, r"sampling\.max_tokens: 2048 -> 500"),
        ({"engine": {"kind": "simulated", "model": "other"}}, "model: judge@main -> other@main"),
        ({"prompt": "mine.j2"}, r"prompt: first-error/1 -> mine\.j2/\w+"),
    ],
)
def test_judges_are_never_mixed(run, workspace, tmp_path, change, said):
    run()
    before = judgements(workspace)
    (tmp_path / "mine.j2").write_text("{{ question }}\n{{ solution }}\nWhich is the first wrong one?")
    with pytest.raises(UserError, match=said) as error:
        run(["judge"], judge=change)
    assert "curate judge --replace" in str(error.value)
    assert judgements(workspace) == before
    assert run(["judge"], ["judge"], judge=change)["judge"].skipped == 0
    after = judgements(workspace)
    assert after.keys() == before.keys()
    assert len({row["policy"] for row in [*before.values(), *after.values()]}) == 2


def test_a_chain_that_changed_is_not_taken_for_the_one_that_was_judged(run, workspace):
    run()
    joined = {"rollout": {"min_step_characters": 30}}
    run(["rollout", "label"], ["rollout", "label"], **joined)
    with pytest.raises(UserError, match="other steps than when it was judged; run `curate judge --replace`"):
        run(["judge"], **joined)
    with pytest.raises(UserError, match="36 rollouts have other steps"):
        run(["shard"], shard={"consensus": {}}, **joined)
    told = Told()
    run(["shard"], reporter=told, **joined)
    assert any("no verdicts for them" in note for note in told.notes)
    assert all(set(row["verdicts"]) == {None} for row in workspace.read(EXAMPLES).to_pylist())
    run(["judge"], ["judge"], **joined)
    run(["shard"], shard={"consensus": {}}, **joined)


def labels_and_truth(workspace):
    """(label says right, exact value says so, mask) of each labelled step but the last, whose value is an outcome."""
    found = []
    for row in workspace.read(EXAMPLES).to_pylist():
        law = worlds.world(prompts.render("free", row["question"], row["choices"]), WORLD, None)
        for step, value in enumerate(row["values"][:-1]):
            right = law.value_of("".join(row["steps"][: step + 1])) > 0.5
            found.append((value > 0.5, right, row["masks"][step]))
    return found


def precision(rows):
    said = [right for label, right, _ in rows if label]
    return sum(said) / len(said)


@pytest.mark.parametrize("mask", ["steps", "chains"])
def test_consensus_with_an_informative_judge_raises_the_precision_of_labels(run, workspace, mask):
    consensus = {"consensus": {"threshold": 0.5, "mask": mask}}
    run(problems=150)
    every = labels_and_truth(workspace)
    told = Told()
    ledger = run(["shard"], problems=150, shard=consensus, reporter=told)["shard"]
    kept = [row for row in labels_and_truth(workspace) if row[2] is None]
    before, after = precision(every), precision(kept)
    errors = 1 - before, 1 - after
    assert errors[1] < errors[0] / 3, errors
    accuracy = [sum(label == right for label, right, _ in rows) / len(rows) for rows in (every, kept)]
    assert 1 - accuracy[1] < (1 - accuracy[0]) / 2, accuracy
    # What it costs is counted and said.
    rows = workspace.read(EXAMPLES).to_pylist()
    masked = Counter(reason for row in rows for reason in row["masks"] if reason)
    assert masked.keys() == {{"steps": "disagreed", "chains": "after-error"}[mask]}
    # Rollouts without any label left are rejects; their steps count, too.
    assert Counter(ledger.masked) > masked
    assert ledger.rejected["disagreed"] > 0
    # The report's share by domain is the stage's own account, with the labels of those rejects.
    whole = (
        sum(len([v for v in row["values"] if v is not None]) for row in rows)
        + (Counter(ledger.masked) - masked).total()
    )
    assert exclusions.consensus_kept(workspace) == {"rows": pytest.approx(1 - sum(ledger.masked.values()) / whole)}
    assert "labelled steps of the train set are kept" in told.notes[-1]
    for row in rows:
        assert [weight == 0 for weight in row["weights"]] == [reason is not None for reason in row["masks"]]
        assert None not in row["values"]


def test_a_judge_that_guesses_gains_nothing(run, workspace):
    guess = {"false_alarm": 0.5, "miss": 0.5}
    run(problems=150, faults=guess)
    every = labels_and_truth(workspace)
    run(["shard"], problems=150, faults=guess, shard={"consensus": {"threshold": 0.5}})
    kept = [row for row in labels_and_truth(workspace) if row[2] is None]
    assert len(kept) < 0.7 * len(every)
    assert precision(kept) < precision(every) + 0.01


def test_steps_without_a_verdict_keep_their_labels_unless_told_otherwise(run, workspace):
    run(judge={"limit": 12}, shard={"consensus": {"threshold": 0.5}})
    seen = {name for name, _ in judgements(workspace)}
    unseen = [row for row in workspace.read(EXAMPLES).to_pylist() if row["rollout_id"] not in seen]
    assert len(unseen) == 24
    assert all((set(row["weights"]), set(row["masks"])) == ({1.0}, {None}) for row in unseen)
    ledger = run(["shard"], shard={"consensus": {"threshold": 0.5, "unjudged": "mask"}})["shard"]
    assert {row["rollout_id"] for row in workspace.read(EXAMPLES).to_pylist()} <= seen
    assert ledger.rejected["unjudged"] == 24
    assert ledger.masked["unjudged"] == sum(len(row["steps"]) for row in unseen)


def test_harvested_completions_have_no_opinion_and_are_not_masked(run, workspace):
    run(shard={"harvest": 0.3, "consensus": {"threshold": 0.5}})
    made = [row for row in workspace.read(EXAMPLES).to_pylist() if "." in row["rollout_id"]]
    assert made
    for row in made:
        assert row["verdicts"] == row["masks"] == [None] * len(row["steps"])
        assert row["weights"] == [0.0 if value is None else 0.3 for value in row["values"]]


def test_consensus_without_an_opinion_is_an_error_with_the_cure(run):
    run(["ingest", "rollout", "label"])
    with pytest.raises(UserError, match="there are none; run `curate judge`"):
        run(["shard"], shard={"consensus": {}})
    run(["judge"], faults={"unreadable": 1.0})
    with pytest.raises(UserError, match=r"has no effect: no labelled step .* has a verdict"):
        run(["shard"], shard={"consensus": {}})
    run(["shard"])


def test_there_is_nothing_to_judge_before_labels(run):
    run(["ingest", "rollout"])
    with pytest.raises(UserError, match="no labelled rollouts of role train to judge; run `curate label` first"):
        run(["judge"])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"judge": {"samples": 3}}, "3 votes at temperature 0 are all the same"),
        ({"judge": {"engine": {"kind": "replay", "model": "w"}}}, "replay has rollouts and completions, no judgements"),
        ({"judge": {"prompt": "free"}}, 'no prompt template "free"'),
        ({"judge": {"prompt": "mine.j2"}}, r"no prompt file mine\.j2 .*judge\.prompt"),
        ({"shard": {"harvest": 0.3, "consensus": {"unjudged": "mask"}}}, "no judge saw the completions"),
        ({"shard": {"consensus": {"treshold": 0.5}}}, 'did you mean "threshold"'),
    ],
)
def test_settings_without_effect_or_sense_are_errors(run, sections, said):
    with pytest.raises(UserError, match=said):
        run(**sections)


def test_a_prompt_of_a_judge_shows_the_problem_and_the_steps(tmp_path):
    text = prompts.render_judge("first-error", "How {solution} many?", ["one", "two"], ["Step 1: a\n", "Step 2: b"])
    assert "How {solution} many?\n(A) one\n(B) two\n" in text
    assert "<paragraph_0>\nStep 1: a\n</paragraph_0>\n<paragraph_1>\nStep 2: b\n</paragraph_1>" in text
    assert "\\boxed{-1}" in text
    mine = prompts.from_file("mine.j2", "{{ problem }}{% for step in steps %}|{{ step }}{% endfor %}", judges=True)
    assert prompts.render_judge(mine, "Q?", [], ["a\n", "b"]) == "Q?|a|b"
    with pytest.raises(UserError, match="does not show the steps"):
        prompts.from_file("mine.j2", "{{ problem }}", judges=True)
    with pytest.raises(UserError, match='unknown variable "solution"'):
        prompts.from_file("mine.j2", "{{ problem }}{{ solution }}")


def test_looking_at_opinions(run, workspace, tmp_path):
    run(shard={"consensus": {"threshold": 0.5}})
    where = ["-w", str(tmp_path / "w")]
    name = workspace.read(ROLLOUTS, ["rollout_id"])["rollout_id"][0].as_py()
    shown = json.loads(CliRunner().invoke(app, ["show", name, "--json", *where]).output)
    assert [vote["sample_index"] for vote in shown["rollouts"][0]["judgements"]] == [0]
    assert "judge" in CliRunner().invoke(app, ["show", name, *where]).output
    ledger = json.loads(CliRunner().invoke(app, ["status", "--json", *where]).output)
    books = {(row["stage"], row["partition"]): row for row in ledger}
    assert books["judge", "main"]["out"] == 36
    assert "masked disagreed " in books["shard", "train"]["reasons"]
