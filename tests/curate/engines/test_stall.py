"""A stage that comes to a stand: one restart, then a clear end with its state on disk, and nothing lost or wrong."""

import json
import subprocess
import sys
import time

import pytest

from curate import pipeline
from curate.errors import StalledError
from curate.runtime.reporter import Silent
from curate.tables.schema import COMPLETIONS, REJECTS, ROLLOUTS
from curate.tables.store import Store

ROWS = 12
SECOND = 1 / 60


class Notes(Silent):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def recipe(tmp_path, **faults):
    engine = {"kind": "simulated", "model": "world", "in_flight": 4, "stall_minutes": 0.5 * SECOND, "args": faults}
    source = {"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": ROWS}
    tree = {
        "name": "stall",
        "seed": 3,
        "ingest": {"sources": [source]},
        "rollout": {"engine": engine, "samples": 3, "error_budget": 0.0, "sampling": {"max_tokens": 600}},
        "label": {"mode": "exact", "completions": 4, "error_budget": 0.0},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


def run(tmp_path, name, only=(), notes=None, **faults):
    workspace = Store.open(tmp_path / name)
    pipeline.run(pipeline.load(recipe(tmp_path, **faults)), workspace, notes or Silent(), only)
    return workspace


def rows(workspace):
    return {table.name: workspace.read(table).sort_by([(c, "ascending") for c in table.key]).to_pylist()
            for table in (ROLLOUTS, COMPLETIONS)}  # fmt: skip


def test_a_restart_helps_against_a_hang_and_changes_no_row(tmp_path):
    notes = Notes()
    disturbed = run(tmp_path, "a", notes=notes, hang_rate=0.3, hang_once=str(tmp_path / "cured"))
    assert rows(disturbed) == rows(run(tmp_path, "b"))
    assert sum("starting it again (1 of 3)" in note for note in notes.said) == 1
    assert not disturbed.read(REJECTS).num_rows
    assert not list(disturbed.root.glob("runs/*/stall-*"))


def test_a_hang_that_a_restart_does_not_cure_ends_the_stage_and_loses_nothing(tmp_path):
    start = time.monotonic()
    with pytest.raises(StalledError, match=r"not by a new engine either.*what is finished is kept.*stall_minutes"):
        run(tmp_path, "a", hang_rate=0.3)
    assert time.monotonic() - start < 20
    workspace = Store.open(tmp_path / "a")
    (state,) = workspace.root.glob("runs/*/stall-*.txt")
    text = state.read_text()
    assert "3 requests under way" in text and text.count("n=3, seed") == 3
    assert "in _work" in text and "Thread MainThread" in text
    # Only those that hung are missing, none of them is a wrong answer or a reject, and they come with the next run.
    whole = rows(run(tmp_path, "b"))
    again = run(tmp_path, "a", ["rollout"], hang_rate=0.0)
    assert rows(again)["rollouts"] == whole["rollouts"]
    assert not again.read(REJECTS).num_rows


def test_what_was_finished_before_the_stand_is_not_asked_again(tmp_path):
    with pytest.raises(StalledError):
        run(tmp_path, "a", hang_rate=0.3)
    ledger = pipeline.run(pipeline.load(recipe(tmp_path)), Store.open(tmp_path / "a"), Silent(), ["rollout"])["rollout"]
    assert 0 < ledger.skipped < ROWS * 3
    assert ledger.out == ROWS * 3


def test_slow_answers_are_no_stand(tmp_path):
    """Each request takes most of the time that is allowed without an answer, and the stage many times that."""
    notes = Notes()
    workspace = run(tmp_path, "a", ["ingest", "rollout"], notes, latency=0.25)
    assert workspace.read(ROLLOUTS).num_rows == ROWS * 3
    assert not any("starting it again" in note for note in notes.said)


def test_the_command_says_so_exits_1_and_ends_though_threads_hang(tmp_path):
    code = (
        "import asyncio, sys, threading\n"
        "from curate.engines import simulated\n"
        "async def stuck(self, request):\n"
        "    await asyncio.to_thread(threading.Event().wait)\n"
        "simulated.SimulatedEngine.generate = stuck\n"
        "from curate.cli.app import main; main()\n"
    )
    words = ["run", str(recipe(tmp_path)), "-w", str(tmp_path / "a")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Failed: For 0.00833 minutes no request was answered" in done.stderr
    assert "Traceback" not in done.stderr
