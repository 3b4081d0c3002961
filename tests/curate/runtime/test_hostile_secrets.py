"""Passwords, keys and tokens are in nothing that a command writes or says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate import pipeline
from curate.errors import RowError, UserError, guarded, redacted
from curate.runtime import progress
from curate.tables import lineage
from curate.tables.schema import STEP_SCORES
from curate.tables.store import Store

KEY = "correcthorse"
TOKEN = "hf_" + "Ab3" * 11
SAID = [
    f"https://me:{KEY}@host.example/v1",
    f"https://{KEY}@host.example:8000/v1 failed",
    f"http://host.example/data?split=a&api_key={KEY}&n=1",
    f"http://host.example/data?token={KEY}",
    f"Authorization: Bearer {KEY}",
    f"{{'authorization': 'bearer {KEY}'}}",
    f"Invalid user token {TOKEN}.",
    "Incorrect API key provided: sk-proj-" + "x1Y2" * 8,
    "from the environment: my own pass phrase",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "my own pass phrase")
    monkeypatch.setenv("OTHER_KEY", "complete")


@pytest.mark.parametrize("text", SAID)
def test_a_secret_is_left_out_and_the_rest_stays(text, capsys):
    shown = redacted(text)
    assert "***" in shown
    for secret in (KEY, TOKEN, "x1Y2", "pass phrase"):
        assert secret not in shown
        assert secret not in str(RowError("refused", text)) and secret not in RowError("refused", text).detail
    assert ("host.example" in shown) == ("host.example" in text) and ("n=1" in shown) == ("n=1" in text)

    def fail():
        raise UserError(text)

    with pytest.raises(SystemExit):
        guarded(fail)
    progress.PlainProgress().note(text)
    assert KEY not in (said := capsys.readouterr().err) and TOKEN not in said


@pytest.mark.parametrize(
    "text", ["a@b.example", "see https://host.example/@name", "key=5", "hf_hub", "bearing 5", "task_token sk-1", "://"]
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


@given(st.text(st.sampled_from(":/@?&=abhfsk_-. '\"")))
def test_any_text_is_redacted_once(text):
    assert redacted(redacted(text)) == redacted(text)


@given(
    st.recursive(st.text(st.sampled_from(":/@?&=key \\\"'a")) | st.none(), lambda below: st.lists(below, max_size=3))
)
def test_json_stays_json(value):
    json.loads(redacted(json.dumps(value)))


def test_what_is_written_of_a_run_has_none(tmp_path, monkeypatch):
    address = f"https://me:{KEY}@host.example/v1"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"rollout: {{engine: {{kind: server, model: m, urls: ['{address}']}}}}")
    monkeypatch.setattr("sys.argv", ["curate", "run", "--set", f"rollout.engine.urls=[{address}]"])
    place = Store.open(tmp_path / "w")
    folder = pipeline.save_run(pipeline.load(path), place)
    lineage.write(place.partition(STEP_SCORES, "x"), "score", {"dataset": address}, {"url": address})
    written = [file.read_text() for file in place.root.rglob("*") if file.is_file()]
    assert not [text for text in written if KEY in text]
    assert json.loads((folder / "versions.json").read_text())["command"][3].startswith(
        "rollout.engine.urls=[https://***@"
    )
    assert pipeline.read_yaml(folder / "recipe.yaml")["rollout"]["engine"]["urls"] == ["https://***@host.example/v1"]
    # The same settings are the same, with their secret.
    assert lineage.guard(place.partition(STEP_SCORES, "x"), {"dataset": address}, "redo")
