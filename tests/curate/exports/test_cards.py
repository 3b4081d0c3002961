"""The card of an export names the sources, licences, models and accounts of its own rows, and no others."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from curate.cli.app import app
from curate.errors import UserError
from curate.exports import run as exports
from curate.exports.run import ExportRequest
from curate.runtime.reporter import Silent
from curate.stages.ingest import imports
from curate.stages.ingest.imports import ImportConfig
from curate.tables.store import Store

SECRET = "mallard"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Two sources of other licences: one with two imports of rollouts, one that brings labelled chains; and a third."""
    folder = tmp_path_factory.mktemp("cards")

    def lines(name, rows):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / name

    lines("sums.jsonl", [{"n": f"s{n}", "question": f"{n} + 4?", "answer": str(n + 4)} for n in range(3)])
    lines("more.jsonl", [{"question": "Which bird?", "answer": "duck"}])
    chains = [{"question": f"Twice {n}?", "answer": str(2 * n), "steps": [f"Twice {n}.\n", f"Answer: {2 * n}"],
               "values": [0.5, 1.0]} for n in range(2)]  # fmt: skip
    lines("twice.jsonl", chains)
    files = {"kind": "files", "role": "train"}
    sources = [
        files | {"name": "sums", "path": "sums.jsonl", "licence": "MIT", "columns": {"id": "n"}},
        files | {"name": "twice", "path": "twice.jsonl", "licence": "CC-BY-ND-4.0",
                 "chain": {"steps": "steps", "labels": "values"}},
        files | {"name": SECRET, "path": "more.jsonl", "licence": f"{SECRET}-licence"},
    ]  # fmt: skip
    recipe = folder / "recipe.yaml"
    engine = {"kind": "simulated", "model": "oracle"}
    recipe.write_text(yaml.safe_dump({"ingest": {"sources": sources}, "rollout": {"engine": engine}, "shard": {}}))
    at = folder / "w"
    assert CliRunner().invoke(app, ["ingest", str(recipe), "-w", str(at)], catch_exceptions=False).exit_code == 0
    place = Store.open(at)
    for name, policy, count in (("first", "owl-7b", 3), ("second", None, 2)):
        rows = [{"n": f"s{n}", "said": f"{name}: {n + 4}\n\nAnswer: {n + 4}"} for n in range(count)]
        file = lines(f"{name}.jsonl", rows)
        imports.run(ImportConfig(file=file, source="sums", id="n", response="said", policy=policy), place)
    return place


def card(workspace, folder, domain):
    report = exports.run(ExportRequest("datasets", domains=[domain]), folder / "out", workspace, Silent())
    return (folder / "out" / "README.md").read_text(), report


def test_of_imported_rollouts(workspace, tmp_path):
    text, report = card(workspace, tmp_path, "sums")
    assert SECRET not in text and "twice" not in text and "ND-4.0" not in text
    assert "license: mit" in text
    assert "| sums | files | sums.jsonl |  | MIT | 5 |" in text
    assert "| chains | first | 3 | owl-7b |  | imported |" in text
    assert "| chains | second | 2 | not stated |  | imported |" in text
    assert "There are no step labels." in text and "without step labels" in text
    assert "simulated" not in text
    assert [(one.partition, one.model, one.rows) for one in report.chains] == [
        ("first", "owl-7b", 3), ("second", None, 2)
    ]  # fmt: skip
    assert report.labels == {}


def test_of_chains_that_a_source_brings(workspace, tmp_path):
    text, report = card(workspace, tmp_path, "twice")
    assert SECRET not in text and "sums" not in text and "owl" not in text and "MIT" not in text
    assert "| chains | twice | 2 | not stated |  | came with the source |" in text
    assert "| given | 4 | came with the chains |" in text
    assert report.labels == {"given": 4}
    assert "| ingest | problems | twice |" in text


def test_of_everything(workspace, tmp_path):
    exports.run(ExportRequest("datasets"), tmp_path / "all", workspace, Silent())
    text = (tmp_path / "all" / "README.md").read_text()
    # The third source has no rollouts, so that nothing of it is in there either.
    assert all(name in text for name in ("sums", "twice", "owl-7b")) and SECRET not in text
    with pytest.raises(UserError, match="There are no rollouts of domain"):
        card(workspace, tmp_path, SECRET)
