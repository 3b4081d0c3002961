"""Labels need servers that go on from the beginning of an answer; one that starts anew is found out beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_testbed import Call, Fault, Server, ask, served

from curate import pipeline
from curate.engines.base import Request, RequestRejected, Sampling
from curate.engines.server.continuing import Verdict, judge
from curate.errors import UserError
from curate.inspect import plan
from curate.runtime.reporter import Silent
from curate.tables.schema import COMPLETIONS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store

pytest.importorskip("openai")

Make = Callable[[Fault], Server]
FULL = "Step 1: The left bar is four units high.\nStep 2: It grows by two.\nStep 3: So it has six.\nFinal answer: 6"


@pytest.fixture
def server() -> Iterator[Make]:
    open_ones: list[Server] = []

    def make(script: Fault) -> Server:
        open_ones.append(Server(script))
        return open_ones[-1]

    yield make
    for each in open_ones:
        each.close()


def beginning(call: Call) -> str:
    """What the assistant has said already."""
    last = call.body["messages"][-1]
    return str(last["content"]) if last["role"] == "assistant" else ""


def say(call: Call, text: str) -> None:
    choices = [{"index": i, "message": {"content": text}, "finish_reason": "stop"} for i in range(call.body["n"])]
    call.whole({"choices": choices})


def rest(call: Call) -> str:
    said = beginning(call)
    return FULL[len(said) :] if FULL.startswith(said) else " and so on."


def goes_on(call: Call) -> None:
    say(call, rest(call))


def goes_on_trimmed(call: Call) -> None:
    """Its chat template trims what the assistant has said, so the blank is said anew."""
    said = beginning(call).strip()
    say(call, FULL[len(said) :] if FULL.startswith(said) else " and so on.")


def repeats(call: Call) -> None:
    say(call, beginning(call) + rest(call))


def starts_anew(call: Call) -> None:
    say(call, FULL)


def starts_anew_in_other_words(call: Call) -> None:
    say(call, f"Let me look again. {FULL}" if beginning(call) else FULL)


def says_something_else(call: Call) -> None:
    say(call, "As I said before, it is a bar." if beginning(call) else FULL)


def counts_only(call: Call) -> None:
    """Its answers are too short to be cut."""
    say(call, "3, 14, 15, 16" if beginning(call).startswith("1, 2, 3") else "6")


def refuses(call: Call) -> None:
    if beginning(call):
        data = json.dumps({"error": {"message": "The conversation must end with a user message."}}).encode()
        call.head(400, "application/json", Content_Length=len(data))
        call.handler.wfile.write(data)
    else:
        say(call, FULL)


def refuses_the_field(call: Call) -> None:
    """It goes on by itself, and takes no parameter for it."""
    extra = next((name for name in ("continue_final_message", "add_generation_prompt") if name in call.body), None)
    if extra:
        data = json.dumps({"detail": [{"loc": ["body", extra], "msg": "Extra inputs are not permitted"}]}).encode()
        call.head(422, "application/json", Content_Length=len(data))
        call.handler.wfile.write(data)
    else:
        goes_on(call)


def wants_a_mark(call: Call) -> None:
    if beginning(call) and not call.body["messages"][-1].get("prefix"):
        error = {"message": "Expected last role User or Tool (or Assistant with prefix True) but got assistant"}
        data = json.dumps(error).encode()
        call.head(400, "application/json", Content_Length=len(data))
        call.handler.wfile.write(data)
    else:
        repeats(call)


def go_on(number: int = 1) -> Request:
    return Request(f"{number}", "How high?", (), (), 2, 256 * number, Sampling(1.0, 1.0, 0, 50), FULL[:41])


@pytest.mark.parametrize(
    ("script", "asked"),
    [(goes_on, 2), (goes_on_trimmed, 2), (repeats, 3), (refuses_the_field, 2 + 2), (wants_a_mark, 3 + 1)],
)
def test_a_server_that_goes_on_is_asked_about_it_once(server: Make, script: Fault, asked: int) -> None:
    there = server(script)
    answers = served([there.url], [go_on(number) for number in range(4)], retries=0)
    assert [[sample.text.strip() for sample in answer] for answer in answers] == [[FULL[41:].strip()] * 2] * 4
    assert [body["temperature"] for body in there.bodies] == [0.0] * asked + [1.0] * 4


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (starts_anew, "starts the answer anew"),
        (starts_anew_in_other_words, "starts the answer anew"),
        (says_something_else, "cannot be seen whether it goes on"),
        (refuses, "must end with a user message"),
    ],
)
def test_a_server_that_does_not_go_on_ends_the_command(server: Make, script: Fault, said: str) -> None:
    there = server(script)
    for answer in served([there.url], [go_on(1), go_on(2)]):
        assert isinstance(answer, UserError) and said in str(answer)
        assert ("continues: true" in str(answer)) == ("anew" not in said)
    assert all(body["temperature"] == 0 for body in there.bodies)


def test_short_answers_are_told_by_counting_and_a_promise_is_believed(server: Make) -> None:
    there = server(counts_only)
    assert isinstance(served([there.url], [go_on()])[0], list)
    there = server(says_something_else)
    assert isinstance(served([there.url], [go_on()], continues=True)[0], list)
    assert [body["temperature"] for body in there.bodies] == [1.0]
    # Without a beginning nothing is found out.
    there = server(starts_anew)
    assert isinstance(served([there.url], [ask(1)])[0], list) and len(there.bodies) == 1


def test_a_failure_while_it_is_found_out_is_one_that_passes(server: Make) -> None:
    there = server(lambda call: call.fail(503) if call.number in (1, 3) else goes_on(call))
    assert isinstance(served([there.url], [go_on()])[0], list)
    there = server(lambda call: call.fail(400))
    assert isinstance(served([there.url], [go_on()])[0], RequestRejected)


def test_a_model_that_says_the_same_over_and_over_proves_nothing() -> None:
    assert judge("ha ha ha ha ha", " ha ha ha ha ha ha", "ha ha ha ha ha ha ha") is Verdict.UNKNOWN
    assert judge("One two", " three four five", " three four six") is Verdict.UNKNOWN
    assert judge("One two", " three four five", "three four five") is Verdict.GOES_ON
    assert judge("One two three", " four", "One two three four") is Verdict.REPEATS


def recipe(folder: Path, url: str, samples: int = 2) -> Any:
    problem = {"question": "How high is the bar?", "answer": "6"}
    (folder / "p.jsonl").write_text(
        "".join(json.dumps(problem | {"question": f"{i}: How high?"}) + "\n" for i in range(3))
    )
    tree = {
        "name": "go-on",
        "ingest": {"sources": [{"name": "s", "kind": "files", "path": "p.jsonl"}]},
        "rollout": {
            "engine": {"kind": "server", "model": "m", "urls": [url], "args": {"backoff": 0.01}},
            "samples": samples,
        },
        "label": {"mode": "exact", "completions": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return pipeline.load(path)


def test_labels_of_a_server_that_counts_no_tokens_say_so(server: Make, tmp_path: Path) -> None:
    workspace = Store.open(tmp_path / "w")
    pipeline.run(recipe(tmp_path, server(goes_on).url), workspace, Silent())
    for table, count in ((ROLLOUTS, 6), (COMPLETIONS, 6 * 2 * 2), (STEP_LABELS, 6 * 3)):
        rows = workspace.read(table).to_pylist()
        assert len(rows) == count, table.name
        # The last step of a chain has no completions, and those have no tokens.
        assert {row["tokens"] for row in rows} == ({None, 0} if table is STEP_LABELS else {None})
    assert {row["prompt_tokens"] for row in workspace.read(COMPLETIONS).to_pylist()} == {None}
    assert {row["value"] for row in workspace.read(STEP_LABELS).to_pylist()} == {1.0}
    # What is left to do has an unknown number of tokens, not none.
    loaded = recipe(tmp_path, "http://127.0.0.1:9/v1", samples=3)
    made = plan.make(loaded.sections["rollout"], loaded.sections["label"], workspace, loaded.seed)
    assert (made.tokens, made.lines[0].rollout_tokens, made.lines[0].label_tokens) == (None, None, None)
    assert "did not count them" in plan.summary(made)
    loaded = recipe(tmp_path, "http://127.0.0.1:9/v1")
    made = plan.make(loaded.sections["rollout"], loaded.sections["label"], workspace, loaded.seed)
    assert plan.summary(made) == "Nothing is left to generate."


def test_no_label_comes_of_a_server_that_starts_anew(server: Make, tmp_path: Path) -> None:
    workspace = Store.open(tmp_path / "w")
    with pytest.raises(UserError, match="starts the answer anew"):
        pipeline.run(recipe(tmp_path, server(starts_anew).url), workspace, Silent())
    assert workspace.read(ROLLOUTS).num_rows == 6
    assert workspace.read(COMPLETIONS).num_rows == workspace.read(STEP_LABELS).num_rows == 0
