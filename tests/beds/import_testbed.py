"""A workspace with a few problems, and files of responses to them."""

import json

import yaml

from curate import pipeline
from curate.runtime.reporter import Silent
from curate.stages.ingest import imports
from curate.stages.ingest.imports import ImportConfig
from curate.tables.schema import PROBLEMS, REJECTS, ROLLOUTS
from curate.tables.store import Store

PROBLEM_ROWS = [
    {"n": "u", "question": "4 + 5?", "answer": "9"},
    {"n": "v", "question": "Which one flies?", "answer": "A", "choices": ["bird", "fish"]},
    {"n": "w", "question": "Seven and four?", "answer": "11"},
]


class Notes(Silent):
    """A reporter that keeps its notes."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ingested(folder, name="sums", rows=PROBLEM_ROWS, workspace=None, **source):
    """A workspace whose source of this name has these rows, named by `n`."""
    lines(folder / f"{name}.jsonl", *rows)
    columns = {"id": "n"} | ({"choices": "choices"} if any("choices" in row for row in rows) else {})
    source = {"kind": "files", "name": name, "path": f"{name}.jsonl", "columns": columns} | source
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}))
    place = workspace or Store.open(folder / "w")
    pipeline.run(pipeline.load(folder / f"{name}.yaml"), place, Silent(), ["ingest"])
    return place


def imported(workspace, file, **options):
    """(ledger, notes) of an import by the columns `q` and `t`."""
    notes = Notes()
    config = ImportConfig(file=file, **({"id": "q", "response": "t"} | options))
    return imports.run(config, workspace, reporter=notes), notes.said


def rollouts(workspace):
    """The rollouts by the row of their problem and index."""
    names = {row["problem_id"]: row["source_row"] for row in workspace.read(PROBLEMS).to_pylist()}
    rows = workspace.read(ROLLOUTS).to_pylist()
    found = {(names[row["problem_id"]], row["sample_index"]): row for row in rows}
    assert len(found) == len(rows), "two rollouts of a problem have one index"
    return found


def reasons(workspace):
    return sorted(row["reason"] for row in workspace.read(REJECTS).to_pylist() if row["stage"] == "import")
