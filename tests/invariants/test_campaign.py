"""The short form of `make campaign`: a few kills, faults and flipped bytes of the commands of `curate`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CAMPAIGN = ROOT / "benchmarks" / "campaign"
ONLY = ("ingest", "rollout", "label", "shard")


def campaign(*words):
    line = [sys.executable, CAMPAIGN, *words, *(f"--only={name}" for name in ONLY)]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=280, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


@pytest.mark.parametrize(("part", "count", "least"), [("kills", 14, 5), ("faults", 11, 11), ("flips", 2, 5)])
def test_a_short_campaign_finds_nothing(part, count, least, tmp_path):
    ran = campaign(part, f"--count={count}", "--seconds=60", f"--folder={tmp_path}")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])["parts"][0]
    assert found["faults"] == []
    numbers = [value for value in found.values() if isinstance(value, int)]
    assert sum(numbers) >= least
