"""The short form of `make campaign`: a few kills, faults, flipped bytes and hostile inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COUNTS = {"kills": 8, "faults": 11, "flips": 1, "hostile": 4}


def test_a_short_campaign_finds_nothing(tmp_path):
    parts = [f"{name}:{count}" for name, count in COUNTS.items()]
    line = [sys.executable, ROOT / "benchmarks" / "campaign", *parts, "--only=ingest", "--only=rollout", "--seconds=60"]
    where = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([*line, f"--folder={tmp_path}"], capture_output=True, text=True, timeout=280, env=where)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    parts = json.loads(ran.stdout.splitlines()[-1])["parts"]
    assert [part["part"] for part in parts] == list(COUNTS)
    for part in parts:
        assert part["faults"] == []
        assert sum(value for value in part.values() if isinstance(value, int)) >= COUNTS[part["part"]]
