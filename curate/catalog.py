"""SQL over the workspace: DuckDB views on the committed shards, plus the ledger. The only file that imports duckdb.

The Parquet files are the truth. A reader opens its own in-memory database over the files that are committed at that
moment, so it never waits for a running stage and never makes one wait. `write` leaves the same views in
`catalog.duckdb` for other tools; it can be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from curate import marks
from curate.errors import UserError
from curate.lineage import FILE, read_file
from curate.schema import TABLES
from curate.store import Workspace

_LEDGER = {
    "stage": pl.String,
    "table_name": pl.String,
    "partition": pl.String,
    "unit": pl.String,
    "taken": pl.Int64,
    "out": pl.Int64,
    "duplicate": pl.Int64,
    "rejected": pl.Int64,
    "failed": pl.Int64,
    "reasons": pl.String,
    "complete": pl.Boolean,
    "written": pl.String,
    "origin": pl.String,
}


def ledger(workspace: Workspace) -> pl.DataFrame:
    """One row per partition: its accounts, as its lineage record has them.

    `origin` says where an import came from: its file, the policy, and the sources of its problems.
    """
    rows = []
    for path in sorted((workspace.root / "tables").glob(f"*/*/{FILE}")):
        record = read_file(path)
        if record is None:
            continue
        book = record["ledger"] or {}
        reasons = (book.get("rejected") or {}) | (book.get("failed") or {})
        reasons |= {f"masked {reason}": count for reason, count in (book.get("masked") or {}).items()}
        rows.append(
            {
                "stage": record["stage"],
                "table_name": record["table"],
                "partition": record["partition"],
                "unit": book.get("unit"),
                "taken": book.get("taken"),
                "out": book.get("out"),
                "duplicate": book.get("duplicate"),
                "rejected": sum((book.get("rejected") or {}).values()) if book else None,
                "failed": sum((book.get("failed") or {}).values()) if book else None,
                "reasons": ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or None,
                "complete": record["complete"],
                "written": record["written"],
                "origin": _origin(record) if record["stage"] == "import" else None,
            }
        )
    return pl.DataFrame(rows, schema=_LEDGER)


def _origin(record: Mapping[str, Any]) -> str:
    config = record["config"]
    policy, column = config["policy"], config["columns"]["policy"]
    by = f" by {policy}" if policy is not None else f" by {column}" if column is not None else ""
    return f"{record['inputs']['file']}{by}, of {', '.join(record['inputs']['sources'])}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _define(connection: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    for name, table in TABLES.items():
        files = ", ".join(_quote(str(path.resolve())) for path in workspace.files(table))
        if files:
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])")
        else:
            connection.register("empty_rows", table.schema.empty_table())
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM empty_rows")
            connection.unregister("empty_rows")
    connection.register("ledger_rows", ledger(workspace).to_arrow())
    connection.execute("CREATE TABLE ledger AS SELECT * FROM ledger_rows")
    connection.unregister("ledger_rows")


def connect(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """A private in-memory database with a view for each table and the ledger."""
    connection = duckdb.connect(":memory:")
    _define(connection, workspace)
    return connection


def query(workspace: Workspace, sql: str, parameters: list[Any] | None = None) -> pl.DataFrame:
    """Rows of one SQL statement; UserError with DuckDB's own sentence when it is not understood."""
    for name, table in TABLES.items():
        # DuckDB would read damaged bytes as they are. A table that is not named is not read.
        if name in sql.lower():
            for path in workspace.files(table):
                marks.check(path, table.schema.names)
    try:
        with connect(workspace) as connection:
            relation = connection.sql(sql, params=parameters)
            # A statement without rows (CREATE, SET) gives no relation.
            return pl.DataFrame() if relation is None else pl.DataFrame(relation.to_arrow_table())
    except duckdb.Error as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"The query failed: {first} Tables: {', '.join(TABLES)}, ledger.") from None


def write(workspace: Workspace) -> Path:
    """(Re)build `catalog.duckdb`, atomically: readers of the old one keep it."""
    path, temporary = workspace.root / "catalog.duckdb", workspace.root / "catalog.duckdb.tmp"
    temporary.unlink(missing_ok=True)
    with duckdb.connect(str(temporary)) as connection:
        _define(connection, workspace)
    temporary.replace(path)
    return path
