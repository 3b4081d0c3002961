"""kill -9 at random moments of rollout, label and judge, then the same command again: the same rows as without a kill.

The simulated engine answers the same request with the same text, so the final tables can be compared row by row. Four
samples a problem, pictures, and another number of requests in flight at every start. The short form kills three times;
`make check-kill` kills 40 times with five seeds, a third of them while the run before is being resumed.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from curate import lineage
from curate.schema import COMPLETIONS, JUDGEMENTS, ROLLOUTS, STEP_LABELS
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
        # Slow enough that a rollout takes most of a second on a fast machine, so that kills fall into it, too.
        "engine": {"kind": "simulated", "model": "world", "in_flight": 16, "args": {"latency": 0.08}},
        "samples": 4,
        "prompt": "short-five",
    },
    "label": {"mode": "exact", "completions": 2},
    "judge": {
        "engine": {
            "kind": "simulated",
            "model": "judge",
            "in_flight": 16,
            "args": {"latency": 0.08, "false_alarm": 0.1, "miss": 0.1},
        },
        "sampling": {"temperature": 1.0},
        "samples": 3,
    },
}


TABLES = (ROLLOUTS, COMPLETIONS, STEP_LABELS, JUDGEMENTS)
# What is generated, by stage, in the order of the chain.
GENERATED = {"rollout": "rollouts", "label": "completions", "judge": "judgements"}


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
    for table in TABLES:
        rows = place.read(table).to_pylist()
        keys = [tuple(row[c] for c in table.key) for row in rows]
        assert len(set(keys)) == len(keys), "a row is there twice"
        tables[table.name] = dict(zip(keys, rows, strict=True))
    return tables


def finished_rows(workspace):
    """Generated rows that are journalled or committed: how far a run has come, whatever the clock says."""
    count = 0
    for table in GENERATED.values():
        folder = workspace / "tables" / table / "main"
        count += sum(json.loads(path.read_text())["rows"] for path in folder.glob("*.done"))
        for path in folder.glob("*.journal"):
            with contextlib.suppress(FileNotFoundError):
                lines = path.read_bytes().splitlines(keepends=True)
                count += sum(len(json.loads(line.partition(b" ")[2])) for line in lines if line.endswith(b"\n"))
    return count


def ledgers(workspace):
    """What the stages' accounts say, but for what was there already."""
    place = Workspace.open(workspace, create=False)
    found = {}
    for table in TABLES:
        record = lineage.read(place.partition(table))
        found[table.name] = {key: value for key, value in record["ledger"].items() if key != "skipped"}
    return found


def campaign(tmp_path, kills, seed, label):
    """Kill at random points of progress, or right after the start; returns (stage, workers) of each."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"label": label}))
    finish(recipe, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert len(expected["rollouts"]) == 480
    rng, hits, workspace = random.Random(seed), [], tmp_path / "killed"
    # As many in each stage, whose numbers of rows differ much.
    sizes = [len(expected[table]) for table in GENERATED.values()]
    stages = [kill % len(sizes) for kill in range(kills)]
    points = [sum(sizes[:stage]) + rng.uniform(0, 0.95) * sizes[stage] for stage in stages]
    for number, point in enumerate(sorted(points)):
        workers = rng.choice([3, 16, 50])
        settings = [f"--set={stage}.engine.in_flight={workers}" for stage in ("rollout", "judge")]
        process = curate("run", recipe, "-w", workspace, *settings, start_new_session=True)
        if number % 3 == 2:
            # While it starts and settles what the last one left.
            time.sleep(rng.uniform(0.2, 1.5))
        else:
            assert wait_for(lambda p=point, run=process: finished_rows(workspace) >= p or run.poll() is not None)
            time.sleep(rng.uniform(0, 0.2))
        reached = [stage for stage, table in GENERATED.items() if (workspace / "tables" / table).exists()]
        hits.append((reached[-1] if reached else "rollout", workers))
        assert process.poll() is None, "it ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    finish(recipe, workspace)
    got = contents(workspace)
    for name, rows_of_table in expected.items():
        assert got[name].keys() == rows_of_table.keys()
        assert got[name] == rows_of_table
    assert ledgers(workspace) == ledgers(tmp_path / "whole")
    return hits


POOLED = {"mode": "pooled", "mean_completions": 2}
EXACT = {"mode": "exact", "completions": 2}
HARD = {"mode": "hard", "completions": 4}


def test_three_kills_change_no_row(tmp_path):
    assert len(campaign(tmp_path, 3, seed=1, label=POOLED)) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("seed", "label"), list(enumerate([POOLED, EXACT, HARD, POOLED, EXACT])))
def test_forty_kills_change_no_row(tmp_path, seed, label):
    hits = campaign(tmp_path, 40, seed, label)
    assert len(hits) == 40
    assert {stage for stage, _ in hits} == set(GENERATED)
    assert len({workers for _, workers in hits}) == 3


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
    assert len(contents(workspace)["rollouts"]) == 480
