"""kill -9 at random moments of rollout and label, then the same command again: the same rows as without a kill.

The simulated engine answers the same request with the same text, so the final tables can be compared row by row. The
short form kills three times; `make check-kill` kills ten times and more.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from curate.schema import COMPLETIONS, ROLLOUTS, STEP_LABELS
from curate.store import Workspace

RECIPE = {
    "name": "kill",
    "seed": 5,
    "ingest": {
        "sources": [
            {"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": 60},
            {"kind": "synthetic", "name": "table", "task": "table_lookup", "rows": 60},
        ]
    },
    "rollout": {
        "engine": {"kind": "simulated", "model": "world", "in_flight": 16, "args": {"latency": 0.02}},
        "samples": 3,
        "prompt": "short-five",
    },
    "label": {"completions": 2},
}


def curate(*words, **rest):
    command = [sys.executable, "-c", "from curate.cli.app import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **rest)


def finish(recipe, workspace):
    process = curate("run", recipe, "-w", workspace)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode()
    return output.decode()


def contents(workspace):
    place = Workspace.open(workspace, create=False)
    tables = {}
    for table in (ROLLOUTS, COMPLETIONS, STEP_LABELS):
        rows = place.read(table).to_pylist()
        keys = [tuple(row[c] for c in table.key) for row in rows]
        assert len(set(keys)) == len(keys), "a row is there twice"
        tables[table.name] = dict(zip(keys, rows, strict=True))
    return tables


def campaign(tmp_path, kills, seed):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    begun = time.monotonic()
    finish(recipe, tmp_path / "whole")
    seconds = time.monotonic() - begun
    expected = contents(tmp_path / "whole")
    assert len(expected["rollouts"]) == 360
    rng, killed, stages = random.Random(seed), 0, set()
    workspace = tmp_path / "killed"
    for _ in range(kills * 4):
        if killed == kills:
            break
        process = curate("run", recipe, "-w", workspace, start_new_session=True)
        # After an ever later start of the work, so that both stages are hit; the run's own length sets the scale.
        time.sleep(rng.uniform(0.25, 0.8) * seconds)
        if process.poll() is not None:
            break
        stages.add("label" if (workspace / "tables" / "completions").exists() else "rollout")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        killed += 1
    finish(recipe, workspace)
    got = contents(workspace)
    for name, rows in expected.items():
        assert got[name].keys() == rows.keys()
        assert got[name] == rows
    return killed, stages


def test_three_kills_change_no_row(tmp_path):
    killed, _ = campaign(tmp_path, 3, seed=1)
    assert killed >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ten_kills_change_no_row(tmp_path, seed):
    killed, stages = campaign(tmp_path, 10, seed)
    assert killed >= 2
    assert stages


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_drains_keeps_and_exits_with_130(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    slow = yaml.safe_load(yaml.safe_dump(RECIPE))
    slow["rollout"]["engine"] |= {"in_flight": 4, "args": {"latency": 0.3}}
    recipe.write_text(yaml.safe_dump(slow))
    workspace = tmp_path / "w"
    process = curate("rollout", recipe, "-w", workspace)
    process.wait(timeout=60)
    assert process.returncode == 2, "there is nothing to roll out before ingest"
    process.stdout.close()
    assert curate("ingest", recipe, "-w", workspace).wait(timeout=120) == 0
    process = curate("rollout", recipe, "-w", workspace, start_new_session=True)
    journals = workspace / "tables" / "rollouts" / "main"
    assert wait_for(lambda: any(path.stat().st_size for path in journals.glob("*.journal")))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output.decode()
    assert b"Interrupted" in output
    assert b"Traceback" not in output
    kept = sum(1 for path in journals.glob("*.journal") for _ in path.open())
    assert kept > 0
    recipe.write_text(yaml.safe_dump(RECIPE))
    finish(recipe, workspace)
    assert len(contents(workspace)["rollouts"]) == 360
