"""Storage: whole or not at all, once, and never in between."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import UserError
from curate.seeds import shard_of
from curate.tables.journal import Journal
from curate.tables.rows import RejectRow, Row, StepScoreRow, UpdateRow, columns_of
from curate.tables.schema import REJECTS, STEP_SCORES, TABLES, Table
from curate.tables.store import VERSION, CommittedFiles, Store, Writer
from tests.beds.rows import made


def score(rollout: str, step: int, value: float | None = 0.5) -> StepScoreRow:
    return StepScoreRow(run="r", rollout_id=rollout, problem_id=rollout, step_index=step, score=value)


def read(workspace: Store) -> list[StepScoreRow]:
    return list(workspace.rows(StepScoreRow))


LINES = Table(
    "lines", 1, pa.schema([pa.field("text", pa.string(), False), pa.field("n", pa.int64(), False)]), ("n",), "n"
)


@columns_of(LINES)
@dataclass(frozen=True, slots=True)
class Line(Row):
    """A row of a table of the tests."""

    text: str
    n: int


@pytest.fixture
def workspace(tmp_path):
    return Store.open(tmp_path / "w")


def test_rows_come_back_as_written_with_nulls(workspace):
    partition = workspace.partition(STEP_SCORES)
    rows = [score("a", 0), score("a", 1, None), score("b", 0, 0.25)]
    assert partition.commit_all(rows) == 3
    assert sorted(read(workspace), key=lambda row: (row.rollout_id, row.step_index)) == rows


def test_a_file_without_its_marker_is_not_there(workspace):
    partition = workspace.partition(STEP_SCORES)
    partition.commit(0, [score("a", 0)])
    partition.commit(0, [score("a", 1)])
    partition.files()[1].with_suffix(".done").unlink()
    assert [row["step_index"] for row in partition.read().to_pylist()] == [0]
    # The next commit takes the place of the unmarked file, as after a crash between the two.
    partition.commit(0, [score("a", 1, 0.75)])
    assert [row["score"] for row in partition.read().to_pylist()] == [0.5, 0.75]


def test_a_key_is_committed_once(workspace):
    partition = workspace.partition(STEP_SCORES)
    partition.commit(0, [score("a", 0)])
    with pytest.raises(ValueError, match="twice"):
        partition.commit(0, [score("a", 0)])
    with pytest.raises(ValueError, match="twice"):
        partition.commit(1, [score("b", 0), score("b", 0)])
    assert partition.read().num_rows == 1


def test_what_is_there_already_is_told_from_what_is_new(workspace):
    partition = workspace.partition(STEP_SCORES)
    partition.commit(0, [score("a", 0), score("b", 0)])
    writer = Writer(partition)
    assert [row.rollout_id for row in writer.new(0, [score("a", 0), score("c", 0), score("b", 0)])] == ["c"]
    writer.commit(0, [score("c", 0)])
    assert writer.new(0, [score("c", 0)]) == []
    # Another shard is another place.
    assert len(writer.new(1, [score("a", 0)])) == 1


def test_staged_rows_take_the_place_of_others_all_at_once(workspace):
    partition, staged = workspace.partition(STEP_SCORES), workspace.staging(STEP_SCORES)
    partition.commit(0, [score("a", 0), score("a", 1)])
    staged.commit(3, [score("b", 0)])
    assert {row["rollout_id"] for row in workspace.read(STEP_SCORES).to_pylist()} == {"a"}
    partition.take_over(staged)
    assert [row["rollout_id"] for row in workspace.read(STEP_SCORES).to_pylist()] == ["b"]
    assert not staged.files()
    # Also where nothing was.
    workspace.staging(REJECTS).folder.mkdir(parents=True)
    workspace.partition(REJECTS).take_over(workspace.staging(REJECTS))
    assert workspace.read(REJECTS).num_rows == 0


def test_files_stay_what_they_were_when_they_were_opened(workspace):
    partition = workspace.partition(STEP_SCORES)
    assert CommittedFiles(partition.files(), STEP_SCORES).read(["step_index"]).num_rows == 0
    partition.commit(0, [score("a", 0), score("b", 1)])
    opened = workspace.shard(STEP_SCORES, 0)
    partition.commit(0, [score("c", 2)])
    assert opened.read(["step_index"])["step_index"].to_pylist() == [0, 1]
    assert list(opened.rows(StepScoreRow, pc.field("rollout_id") > "a")) == [score("b", 1)]


def test_schema_version_stands_in_the_file_and_unknown_columns_are_a_bug(workspace):
    partition = workspace.partition(STEP_SCORES)
    partition.commit(0, [score("a", 0)])
    metadata = pq.read_schema(partition.files()[0]).metadata
    assert metadata[b"curate.table"] == b"step_scores"
    assert metadata[b"curate.version"] == b"1"
    with pytest.raises(AttributeError):
        partition.commit(0, [made(UpdateRow, run="r")])


def test_keys_and_shard_columns_exist_in_every_table():
    for table in TABLES.values():
        assert set(table.key) <= set(table.schema.names)
        assert table.shard_by in table.schema.names


@settings(max_examples=40, deadline=None)
@given(
    units=st.lists(
        st.lists(st.tuples(st.text(max_size=20), st.integers(-(2**62), 2**62)), min_size=1, max_size=3), max_size=6
    ),
    cut=st.integers(0, 400),
)
def test_a_torn_journal_loses_only_its_tail(tmp_path_factory, units, cut):
    path = tmp_path_factory.mktemp("journal") / "j"
    journal, ends = Journal(path, {}, Line), [0]
    for unit in units:
        journal.append([Line(text, n) for text, n in unit])
        journal.sync()
        ends.append(path.stat().st_size)
    journal.close()
    keep = max(ends[-1] - cut, 0)
    if path.exists():
        os.truncate(path, keep)
    whole = sum(end <= keep for end in ends[1:])
    expected = [Line(text, n) for unit in units[:whole] for text, n in unit]
    assert Journal(path, {}, Line).rows() == expected
    again = Journal(path, {}, Line)
    again.append([Line("after", 0)])
    again.close()
    assert Journal(path, {}, Line).rows() == [*expected, Line("after", 0)]


def test_a_damaged_line_is_not_read_as_data(tmp_path):
    journal = Journal(tmp_path / "j", {}, Line)
    journal.append([Line("", 1)])
    journal.close()
    data = bytearray((tmp_path / "j").read_bytes())
    data[-4] ^= 1
    (tmp_path / "j").write_bytes(data)
    assert Journal(tmp_path / "j", {}, Line).rows() == []


@given(st.text(), st.integers(1, 64))
def test_a_problem_has_one_shard(problem, shards):
    assert 0 <= shard_of(problem, shards) < shards
    assert shard_of(problem, shards) == shard_of(problem, shards)


def test_the_number_of_shards_is_fixed_when_the_workspace_is_made(tmp_path):
    made = Store.open(tmp_path / "w")
    manifest = json.loads((tmp_path / "w" / "workspace.json").read_text())
    assert Store.open(tmp_path / "w").shards == made.shards == manifest["shards"]


def test_a_missing_workspace_and_a_damaged_one_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no workspace"):
        Store.open(tmp_path / "none", create=False)
    Store.open(tmp_path / "w")
    (tmp_path / "w" / "workspace.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Store.open(tmp_path / "w")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        Store.open(tmp_path / "file" / "w")


def test_a_full_disk_is_one_sentence():
    # /dev/full is the kernel's own full disk: every write to it fails with ENOSPC.
    journal = Journal(Path("/dev/full"), {}, Line)
    with pytest.raises(UserError, match="free some space"):
        for _ in range(2):
            journal.append([Line("", 1)])
            journal.sync()


def test_clear_leaves_nothing(workspace):
    partition = workspace.partition(REJECTS, "x")
    partition.commit_all([made(RejectRow, stage="s", source="x", source_row="1", reason="r", detail="d")])
    partition.clear()
    assert workspace.read(REJECTS).num_rows == 0
    assert not partition.folder.exists()


def test_a_workspace_of_another_version_is_refused(tmp_path):
    Store.open(tmp_path)
    manifest = tmp_path / "workspace.json"
    manifest.write_text(manifest.read_text().replace(f'"version": {VERSION}', '"version": 1'))
    with pytest.raises(UserError, match=r"files of version 1, now 7.*run `curate upgrade"):
        Store.open(tmp_path)
