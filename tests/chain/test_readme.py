"""README.md does what it says: the lines about a reader's own data run as they stand."""

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from curate.cli.app import app
from curate.recipe.source_sections import SyntheticSource
from curate.sources.synthetic import Synthetic
from curate.tables.schema import IMAGES, PROBLEMS
from curate.tables.store import Store

README = (Path(__file__).parents[2] / "README.md").read_text()


def own_data_lines() -> list[str]:
    block = re.search(r"## Your own data\n.*?```sh\n(.*?)```", README, re.DOTALL)[1]
    return [line for line in block.splitlines() if line.startswith("curate ")]


def test_the_lines_about_own_data_run(tmp_path, monkeypatch):
    source = SyntheticSource(kind="synthetic", name="charts", task="bars_read", rows=12)
    rows = []
    for number, row in enumerate(Synthetic(source).rows()):
        (tmp_path / f"{number}.png").write_bytes(row.images[0])
        rows.append({"query": row.question, "figure": f"{number}.png", "label": row.answer})
    (tmp_path / "charts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    lines = own_data_lines()
    assert len(lines) == 4
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, (line, done.output, done.exception)
    workspace = Store.open(tmp_path / "work" / "charts", create=False)
    assert workspace.read(PROBLEMS).num_rows == workspace.read(IMAGES).num_rows == 12
    assert (workspace.root / "reports" / "profile.html").exists()
