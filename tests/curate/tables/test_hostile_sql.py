"""`curate sql` reads the tables and nothing else, changes nothing, and can be bounded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import polars as pl
import pytest
from typer.testing import CliRunner

from curate.cli.app import app
from curate.errors import UserError
from curate.tables import catalog
from curate.tables.rows import StepScoreRow
from curate.tables.schema import STEP_SCORES
from curate.tables.store import Store, Writer

CROSS = "SELECT count(*) FROM range(10000000) a, range(1000000) b"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One table with rows, and a secret beside the workspace."""
    place = Store.open(tmp_path_factory.mktemp("sql") / "w")
    (place.root.parent / "secret.csv").write_text("password\nsesame\n")
    kinds = {"string": "x", "int": 1, "float": 0.5, "double": 0.5}
    row = {}
    for field in STEP_SCORES.schema:
        row[field.name] = next((v for kind, v in kinds.items() if str(field.type).startswith(kind)), None)
    writer = Writer(place.partition(STEP_SCORES, "run"))
    writer.commit(0, writer.new(0, [StepScoreRow(**row)]))
    assert catalog.query(place, "SELECT count(*) AS n FROM step_scores").item() == 1
    return place


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def run(workspace, *words):
    return CliRunner().invoke(app, ["sql", *words, "-w", str(workspace.root)])


SECRET = "{folder}/secret.csv"
FOREIGN = [
    f"SELECT * FROM read_csv('{SECRET}')",
    f"SELECT * FROM read_text('{SECRET}')",
    f"SELECT * FROM read_blob('{SECRET}')",
    f"FROM '{SECRET}'",
    f"SELECT * FROM sniff_csv('{SECRET}')",
    f"SELECT * FROM query('FROM ''{SECRET}''')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM parquet_schema('{folder}/other.parquet')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "COPY step_scores TO '{table}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{table}' (USE_TMP_FILE false)",
    "COPY (PIVOT step_scores ON run) TO '{table}' (USE_TMP_FILE false)",
    "EXPORT DATABASE '{folder}/out'",
    "IMPORT DATABASE '{folder}'",
    "ATTACH '{folder}/out.duckdb'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA enable_profiling = 'json'",
    "CALL enable_logging(storage = 'file', storage_path = '{folder}/logs')",
    "CREATE TABLE other (n INT)",
    "DROP VIEW step_scores",
    "INSERT INTO ledger SELECT * FROM ledger",
    "CREATE SECRET (TYPE s3)",
    "SELECT 1; SELECT 2",
    "",
    "SELECT " + "(" * 20_000,
    "SELECT " + "abs(" * 990 + "1" + ")" * 990 + " FROM nowhere",
    "SELECT '\ud800'",
    "SELECT \0",
]


@pytest.mark.parametrize("sql", FOREIGN)
def test_what_would_reach_further_is_refused_in_a_sentence_and_changes_nothing(workspace, sql):
    (table,) = workspace.files(STEP_SCORES)
    before = tree(workspace.root.parent)
    with pytest.raises(UserError) as caught:
        catalog.query(workspace, sql.replace("{folder}", str(workspace.root.parent)).replace("{table}", str(table)))
    sentence = str(caught.value)
    assert "\n" not in sentence and "sesame" not in sentence and len(sentence) < 600
    assert tree(workspace.root.parent) == before


def test_a_variable_of_this_program_is_no_table(workspace):
    frame = pl.DataFrame({"n": [1]})
    with pytest.raises(UserError, match="frame does not exist"):
        catalog.query(workspace, "SELECT * FROM frame")
    assert len(frame) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "FROM step_scores",
        "DESCRIBE step_scores",
        "SUMMARIZE step_scores",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)",
        "WITH one AS (SELECT 1 AS n) SELECT * FROM one;",
        "VALUES (1), (2)",
    ],
)
def test_what_reads_is_answered(workspace, sql):
    assert len(catalog.query(workspace, sql))


def test_columns_of_one_name_are_told_apart(workspace):
    assert catalog.query(workspace, 'SELECT 1 AS n, 2 AS n, 3 AS "N", 4 AS n_2').to_dicts() == [
        {"n": 1, "n_2": 2, "N_3": 3, "n_2_2": 4}
    ]
    # Whether as JSON or as a table, nothing is lost, and the new name is said where it does not disturb.
    for words in ([], ["--json"]):
        result = run(workspace, "SELECT 'left' AS side, 'right' AS side", *words)
        assert "left" in result.stdout and "right" in result.stdout and "side_2" in result.stdout
        assert result.stderr == "There is a column side already; another one is called side_2. AS gives it a name.\n"


def test_a_table_is_limited_and_says_by_how_much(workspace):
    shown = run(workspace, "SELECT range AS n FROM range(1200)")
    assert "│ 999 │" in shown.stdout and "1000 │" not in shown.stdout
    assert "1,000 rows are shown and 200 left out" in shown.stderr
    assert "1199 │" in run(workspace, "SELECT range AS n FROM range(1200)", "--limit", "0").stdout
    endless = run(workspace, "SELECT a.range AS n FROM range(10000000) a, range(10000000) b", "--limit", "2")
    assert "more than 1,000,000 left out" in endless.stderr
    assert run(workspace, "SELECT 1", "--limit", "1").stderr == ""


def test_json_is_complete_or_limited_and_always_json(workspace):
    query = "SELECT range AS n, 'nan'::DOUBLE AS x, ['inf'::DOUBLE, 1] AS l, NULL AS e FROM range(1200)"
    rows = json.loads(run(workspace, query, "--json").stdout)
    assert len(rows) == 1200 and rows[7] == {"n": 7, "x": "NaN", "l": ["Infinity", 1.0], "e": None}
    assert json.loads(run(workspace, query, "--json", "--limit", "3").stdout) == rows[:3]
    assert json.loads(run(workspace, "SELECT 1 AS n WHERE false", "--json").stdout) == []


def test_results_are_written_to_a_file_of_the_user_s(workspace, tmp_path):
    query = "SELECT range AS n, [range, 1] AS l, {'a': 'ü'} AS s, NULL AS e FROM range(300)"
    read = {
        "csv": lambda path: pl.read_csv(path).to_dicts(),
        "parquet": lambda path: pl.read_parquet(path).to_dicts(),
        "json": lambda path: json.loads(path.read_text()),
        "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    }
    for kind, rows_of in read.items():
        path = tmp_path / f"out.{kind}"
        assert "300 rows" in run(workspace, query, "--write", str(path)).stdout
        rows = rows_of(path)
        nested = {"l": "[299, 1]", "s": '{"a": "ü"}'} if kind == "csv" else {"l": [299, 1], "s": {"a": "ü"}}
        assert len(rows) == 300 and rows[-1] == {"n": 299, "e": None} | nested
        again = run(workspace, query, "--write", str(path))
        assert isinstance(again.exception, UserError) and "already exists" in str(again.exception)
        short = tmp_path / f"short.{kind}"
        run(workspace, query, "--write", str(short), "--limit", "2")
        assert len(rows_of(short)) == 2
    for path, words in (
        (workspace.root / "tables" / "x.csv", "inside the workspace's tables"),
        (tmp_path / "x.xlsx", "must end in one of"),
        (tmp_path / "no" / "x.csv", "no folder"),
    ):
        refused = run(workspace, query, "--write", str(path))
        assert isinstance(refused.exception, UserError) and words in str(refused.exception)
    failing = run(workspace, "SELECT error('no') FROM range(3)", "--write", str(tmp_path / "failed.csv"))
    assert isinstance(failing.exception, UserError)
    assert len(list(tmp_path.iterdir())) == 8


def test_time_and_memory_are_bounded(workspace):
    began = time.monotonic()
    # The second one runs as soon as it is read.
    for slow in (CROSS, f"EXPLAIN ANALYZE {CROSS}"):
        with pytest.raises(UserError, match=r"longer than 0\.3 seconds"), catalog.ask(workspace, slow, 0.3) as answer:
            answer.frame()
    with (
        pytest.raises(UserError, match="more memory than it may"),
        catalog.ask(workspace, "SELECT list(range) FROM range(100000000)", megabytes=50) as answer,
    ):
        answer.frame()
    assert time.monotonic() - began < 10


def test_ctrl_c_stops_a_query(workspace):
    began = time.monotonic()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), catalog.ask(workspace, CROSS) as answer:
        answer.frame()
    assert time.monotonic() - began < 5


INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
from curate.tables import catalog
from curate.tables.store import Store

def slow(connection, workspace):
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    connection.execute("SELECT count(*) FROM range(10000000) a, range(1000000) b").fetchall()

catalog._define = slow
for step in range(20):
    delay = step / 100
    try:
        catalog.write(Store.open(Path(sys.argv[1])))
    except KeyboardInterrupt:
        print(step)
"""


def test_a_mistake_in_a_statement_reads_no_file_of_another_table(workspace, monkeypatch):
    """Files are read for what the statement names, and all of them only where DuckDB cannot open one."""
    checked = set()
    monkeypatch.setattr(catalog.marks, "check", lambda path, columns: checked.add(path.parts[-3]))
    for wrong in ("SELECT no_such_column FROM problems", "SELECT * FROM problemz", "SELECT nothing(1)"):
        with pytest.raises(UserError, match="The query failed"):
            catalog.query(workspace, wrong)
    assert checked <= {"problems"}


def test_ctrl_c_while_views_are_made_is_ctrl_c(workspace):
    """In a statement of ours, at any time; in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(workspace.root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout.split() == list(map(str, range(20))), ran.stderr[-2000:]
