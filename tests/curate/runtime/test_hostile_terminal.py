"""What data says is shown on a terminal and never obeyed; ends of commands say one line, whatever the signals."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from curate.cli.app import app
from curate.cli.look import _table
from curate.errors import UserError, guarded, printable
from curate.runtime import progress
from curate.tables.schema import PROBLEMS, ROLLOUTS
from curate.tables.store import Store
from tests.beds.rows import commit

EVIL = "\x1b[31mred\x1b]0;title\x07 [red]mark[/] [/closing] \x9b2J \u202eback \r:smile: \ud800"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text() | st.just(EVIL))
def test_what_is_printable_steers_nothing_and_can_be_written(text):
    shown = printable(text)
    shown.encode()
    assert not STEERS.search(shown) and len(shown) == len(text)
    assert all(new in (old, "\ufffd", "?") for old, new in zip(text, shown, strict=True))


@pytest.mark.parametrize("colours", [False, True])
def test_the_console_shows_texts_titles_and_cells_as_they_are(capsys, colours, monkeypatch):
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table(title=EVIL)
    table.add_column(EVIL, style="bold")
    table.add_row(EVIL)
    table.add_row(Text(EVIL, style="green"))
    made = progress.console()
    made.print(EVIL)
    made.print(table)
    _table(pl.DataFrame({"[/b]": ["[/i]\x1b[1m"]}), False, "[bold")
    shown = capsys.readouterr().out
    own = re.sub(r"\x1b\[[0-9;]*m", "", shown) if colours else shown
    assert not STEERS.search(own)
    assert colours == ("\x1b[1m" in shown)
    assert "[red]mark[/] [/closing]" in own and "[/b]" in own and "[/i]" in own and ":smile:" in own


def test_progress_shows_notes_as_they_are(capsys, monkeypatch):
    for stream in (io.StringIO(), sys.stderr):
        monkeypatch.setattr("sys.stderr", stream)
        for made in (progress.PlainProgress(), progress.Bar()):
            made.start("stage[/]", 3, "units[/x]")
            made.advance(1, EVIL)
            made.note(EVIL)
            made.finish()
            made.show(EVIL)


def test_show_shows_a_hostile_problem(tmp_path):
    def row(table, **given):
        empty = {"string": "", "bool": False, "double": 0.0, "float": 0.0}
        return {
            field.name: given[field.name]
            if field.name in given
            else None
            if field.nullable
            else []
            if str(field.type).startswith("list")
            else empty.get(str(field.type), 0)
            for field in table.schema
        }

    evil = EVIL.replace("\ud800", "")
    place = Store.open(tmp_path / "w")
    given = {"problem_id": "a" * 32, "domain": evil, "question": evil, "choices": [evil, "b"], "role": "train"}
    commit(place.partition(PROBLEMS, "s"), [row(PROBLEMS, answer=evil, answer_type="text", source="s", **given)])
    chain = {"rollout_id": "b" * 32, "steps": [evil, "two"], "answer": evil, "outcome": False, "outcome_rule": "x"}
    commit(place.partition(ROLLOUTS, "main"), [row(ROLLOUTS, **given, **chain)])
    for words in (["show", "aaaa"], ["sql", 'SELECT question, domain AS "[/x]" FROM problems'], ["status"]):
        found = CliRunner().invoke(app, [*words, "-w", str(place.root)])
        assert found.exit_code == 0 and not STEERS.search(found.stdout)
    assert "[red]mark[/]" in CliRunner().invoke(app, ["show", "aaaa", "-w", str(place.root)]).stdout


def test_a_sentence_of_an_error_steers_nothing(capsys):
    def fail():
        raise UserError(f"There is no file {EVIL}.")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        guarded(fail)
    signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert end.value.code == 2 and not STEERS.search(said) and "[red]mark" in said


RECIPE = {
    "name": "stop",
    "seed": 5,
    "ingest": {"sources": [{"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": 12}]},
    "rollout": {
        "engine": {"kind": "simulated", "model": "world", "in_flight": 2, "args": {"latency": 2.0}},
        "samples": 2,
        "prompt": "short-five",
    },
}


def run(tmp_path, *words):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-c", "from curate.cli.app import main; main()", "run", str(tmp_path / "recipe.yaml")]
    return subprocess.Popen(
        [*command, "-w", str(tmp_path / "w"), *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGTERM, signal.SIGTERM], 143), ([signal.SIGTERM], 143)],
)
def test_signals_end_a_stage_with_one_line_and_the_same_command_goes_on(tmp_path, signals, code):
    with run(tmp_path) as process:
        for line in process.stderr:
            if line.startswith("rollout"):
                break
        time.sleep(0.3)
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(0.3)
        said = process.stderr.read()
        assert process.wait(30) in (code, code - 128 - 2 * (code - 128))
    assert "Traceback" not in said and said.rstrip().splitlines()[-1].startswith("Interrupted; what was finished")


def test_a_command_that_has_not_begun_ends_with_one_line(tmp_path):
    code = "from curate.errors import guarded\nimport time\nprint(1, flush=True)\nguarded(lambda: time.sleep(20))"
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            process.stdout.readline()
            time.sleep(0.2)
            process.send_signal(number)
            assert process.wait(20) == expected
            assert process.stderr.read().count("\n") == 1


WAITS = """
import os, signal, subprocess, threading
from curate.runtime.frames import pl
from curate.stages.ingest import ingest
from curate.tables import catalog

pl.DataFrame({"a": [1]}).lazy().collect()
held = threading.Lock()
held.acquire()
ways = {
    "lock": held.acquire, "pipe": lambda: os.read(os.pipe()[0], 1), "child": lambda: subprocess.run(["sleep", "60"])
}
for name, waits in ways.items():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        waits()
    except KeyboardInterrupt:
        print(name, flush=True)
"""


def test_ctrl_c_ends_every_wait_whatever_was_imported():
    ran = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, timeout=30)
    assert ran.stdout.split() == ["lock", "pipe", "child"], ran.stderr
