"""Ctrl+C while rollouts are drawn, as people do it. What kills, faults and damage do is in `benchmarks/campaign`."""

import signal
import subprocess
import sys
import time

import yaml

from curate.tables.schema import COMPLETIONS, JUDGEMENTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store

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
    place = Store.open(workspace, create=False)
    tables = {}
    for table in TABLES:
        rows = place.read(table).to_pylist()
        keys = [tuple(row[c] for c in table.key) for row in rows]
        assert len(set(keys)) == len(keys), "a row is there twice"
        tables[table.name] = dict(zip(keys, rows, strict=True))
    return tables


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
    # The first line of a journal says where it belongs.
    kept = sum(1 for path in journals.glob("*.journal") for _ in path.open())
    assert kept > 1
    recipe.write_text(yaml.safe_dump(RECIPE))
    finish(recipe, workspace)
    assert len(contents(workspace)["rollouts"]) == 480
