"""SQL over the workspace: DuckDB views on the committed shards, plus the ledger. The only file that imports duckdb.

The Parquet files are the truth. A reader opens its own in-memory database over the files that are committed at that
moment, so it never waits for a running stage and never makes one wait. `write` leaves the same views in
`catalog.duckdb` for other tools; it can be deleted at any time.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import duckdb
import pyarrow as pa

from curate.errors import UserError
from curate.runtime.frames import pl
from curate.tables import all_tables, marks
from curate.tables.lineage import FILE, read_file
from curate.tables.store import Store

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

# Before the views are made; afterwards all other files are shut off, too.
_SHUT: dict[str, str] = {
    "allow_persistent_secrets": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}
_COPY = re.compile(r"\bcopy\b", re.IGNORECASE)
_BATCH_ROWS = 2048
_T = TypeVar("_T")
_DEEPEST = 1000


def ledger(workspace: Store) -> pl.DataFrame:
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
    config, inputs = record["config"], record["inputs"]
    policy, column = config.get("policy"), config.get("columns", {}).get("policy")
    by = f" by {policy}" if policy is not None else f" by {column}" if column is not None else ""
    return f"{inputs.get('file', 'an unknown file')}{by}, of {', '.join(inputs.get('sources', ()))}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class _Connection:
    """A database, and the thread that works on it, so that Ctrl+C always ends a statement.

    On the main thread DuckDB looks for signals between two of its tasks. It does not while its other threads have all
    the tasks that are left, and it puts an error of its own in the place of KeyboardInterrupt.
    """

    def __init__(self, database: str, settings: Mapping[str, str] | None = None, seconds: float | None = None) -> None:
        self._seconds, self._ends = seconds, None if seconds is None else time.monotonic() + seconds
        self._database = duckdb.connect(database, config=dict(settings or {}))
        self._thread = ThreadPoolExecutor(1, "sql")
        # It is started before there is work: Ctrl+C in the middle of its start would leave it unknown to the pool.
        self._thread.submit(int).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # It is done when all work before it is: some is left where Ctrl+C came twice.
        self._stop(self._thread.submit(int))
        self._thread.shutdown()
        self._database.close()

    def run(self, work: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        """What `work` gives; interrupted on Ctrl+C, and when `seconds` are over since the start (UserError)."""
        future = self._thread.submit(work, self._database)
        try:
            return future.result(None if self._ends is None else max(0.0, self._ends - time.monotonic()))
        except TimeoutError:
            self._stop(future)
            raise UserError(f"The query took longer than {self._seconds:g} seconds and was stopped.") from None
        except KeyboardInterrupt:
            self._stop(future)
            raise

    def _stop(self, future: Future[Any]) -> None:
        # Once may come too early, between two of its own looks.
        while not future.done():
            self._database.interrupt()
            wait([future], timeout=0.1)


def _define(connection: duckdb.DuckDBPyConnection, workspace: Store) -> list[str]:
    """Make the views and the ledger; gives the files that the views read."""
    read: list[str] = []
    for name, table in all_tables().items():
        files = [str(path.resolve()) for path in workspace.files(table)]
        read += files
        if files:
            listed = ", ".join(map(_quote, files))
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{listed}])")
        else:
            connection.register("empty_rows", table.schema.empty_table())
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM empty_rows")
            connection.unregister("empty_rows")
    connection.register("ledger_rows", ledger(workspace).to_arrow())
    connection.execute("CREATE TABLE ledger AS SELECT * FROM ledger_rows")
    connection.unregister("ledger_rows")
    return read


class QueryResult:
    """Rows of one SELECT, not computed yet. Column names are unique: a second `n` is called `n_2`."""

    def __init__(self, connection: _Connection, relation: Any) -> None:
        self._connection = connection
        names = _unique(relation.columns)
        # What each of them is called instead, in their order.
        self.renamed = [(old, new) for old, new in zip(relation.columns, names, strict=True) if old != new]
        named = ", ".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
        self._relation = (
            relation if names == relation.columns else relation.query("answer", f"FROM answer AS a({named})")
        )

    def frame(self, limit: int | None = None) -> pl.DataFrame:
        """The rows, or the first `limit` of them; UserError when DuckDB fails, or takes longer than it may."""
        relation = self._relation if limit is None else self._relation.limit(limit)
        return pl.DataFrame(self._wait(relation.to_arrow_table))

    def count(self, limit: int) -> int:
        """How many rows there are, counted up to `limit`; errors as `frame`."""
        counted = self._relation.limit(limit).aggregate("count(*)")
        return int(self._wait(counted.fetchall)[0][0])

    def batches(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Schema and rows, as a stream in bounded memory; errors as `frame`."""
        reader = self._wait(lambda: self._relation.to_arrow_reader(_BATCH_ROWS))
        # At the end of the stream it is None.
        return reader.schema, iter(lambda: self._wait(lambda: next(reader, None)), None)

    def _wait(self, work: Callable[[], Any]) -> Any:
        """What `work` gives; it is interrupted on Ctrl+C and when time is up."""
        try:
            return self._connection.run(lambda _: work())
        except (duckdb.Error, pa.ArrowException) as error:
            raise _failed(error) from None


def _unique(names: list[str]) -> list[str]:
    """The names with a number behind those that were there before; DuckDB takes `N` and `n` for one."""
    found: dict[str, str] = {}
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        free = next(each for each in itertools.chain([name], numbered) if each.lower() not in found)
        found[free.lower()] = free
    return list(found.values())


def _failed(error: Exception) -> UserError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, duckdb.PermissionException | duckdb.IOException):
        return UserError(f"The query failed: {first}; SQL reads the tables of the workspace and no other files.")
    if isinstance(error, duckdb.OutOfMemoryException):
        return UserError(f"The query needs more memory than it may use ({first}); ask for less, or raise its limit.")
    return UserError(f"The query failed: {first} Tables: {', '.join(all_tables())}, ledger.")


def _only_reads(sql: str) -> None:
    """UserError unless this is one statement that reads."""
    # What is not closed costs DuckDB's parser the square of its depth.
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in sql)
    if max(depths, default=0) > _DEEPEST:
        raise UserError(f"The query has more than {_DEEPEST:,} nested brackets; simplify it.")
    if sql != sql.encode(errors="replace").decode():
        raise UserError("The query has bytes that are not UTF-8.")
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise _failed(error) from None
    if len(statements) != 1:
        raise UserError(f"Give one SQL statement; these are {len(statements)}.")
    kind = statements[0].type
    # A PIVOT becomes several statements. Both can have a COPY inside, which would write.
    wrapping = kind in (duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI) and not _COPY.search(sql)
    if kind != duckdb.StatementType.SELECT and not wrapping:
        raise UserError(
            f"The tables can only be read: give a SELECT (or FROM, DESCRIBE, SUMMARIZE, SHOW, PIVOT, EXPLAIN), and no "
            f"{kind.name}."
        )


def _check(workspace: Store, sql: str | None = None) -> None:
    """UserError where a file is damaged of a table that the statement names, whose rows DuckDB would read as they are;
    without a statement, of any table: a view over it cannot be made.
    """
    for name, table in all_tables().items():
        if sql is None or name in sql.lower():
            for path in workspace.files(table):
                marks.check(path, table.schema.names)


@contextmanager
def ask(
    workspace: Store, sql: str, seconds: float | None = None, megabytes: int | None = None
) -> Iterator[QueryResult]:
    """The answer to one SQL statement that reads, on a private in-memory database with a view for each table and the
    ledger.

    The statement reaches no file but those of the tables, no network and no extension, and cannot change that.
    UserError with DuckDB's own sentence when it is not understood, and when it takes more time or memory than it may.
    """
    _only_reads(sql)
    _check(workspace, sql)
    with tempfile.TemporaryDirectory(prefix="curate-sql-") as spill:
        settings = _SHUT | {"temp_directory": spill}
        if megabytes is not None:
            settings["memory_limit"] = f"{megabytes}MB"
        with _Connection(":memory:", settings, seconds) as connection:
            try:
                connection.run(partial(_define_shut, workspace=workspace))
            except duckdb.Error as error:
                _check(workspace)
                raise _failed(error) from None
            try:
                relation = connection.run(lambda database: database.sql(sql))
            except duckdb.Error as error:
                raise _failed(error) from None
            yield QueryResult(connection, relation)


def _define_shut(connection: duckdb.DuckDBPyConnection, workspace: Store) -> None:
    """Make the views, after which nothing but their files can be reached, and nothing can be set."""
    files = _define(connection, workspace)
    connection.execute(f"SET allowed_paths = [{', '.join(map(_quote, files))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def connect(workspace: Store) -> duckdb.DuckDBPyConnection:
    """A private in-memory database with a view for each table and the ledger; it reaches no other file.

    UserError where a file is damaged. The caller closes it.
    """
    connection = duckdb.connect(":memory:", config=_SHUT)
    try:
        _define_shut(connection, workspace)
    except BaseException as error:
        connection.close()
        if isinstance(error, duckdb.Error):
            _check(workspace)
            raise _failed(error) from None
        raise
    return connection


def query(workspace: Store, sql: str) -> pl.DataFrame:
    """All rows of one SQL statement; see `ask`."""
    with ask(workspace, sql) as answer:
        return answer.frame()


def write(workspace: Store) -> Path:
    """(Re)build `catalog.duckdb`, atomically: readers of the old one keep it."""
    path, temporary = workspace.root / "catalog.duckdb", workspace.root / "catalog.duckdb.tmp"
    temporary.unlink(missing_ok=True)
    try:
        with _Connection(str(temporary)) as connection:
            connection.run(partial(_define, workspace=workspace))
    except duckdb.Error as error:
        _check(workspace)
        # The statements are ours: what fails is the disk, or there is no memory.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be written ({reason}); free some space or memory and run again.") from None
    temporary.replace(path)
    return path
