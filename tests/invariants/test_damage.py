"""A damaged workspace is refused in one sentence whose cure works; what a server sends cannot poison it."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from curate.cli.app import app
from curate.errors import BudgetError, RowError, UserError
from curate.runtime.durable import sealed, unsealed
from curate.stages.base import Outcome, Unit, settle
from curate.tables import catalog, lineage, manifests
from curate.tables.row_check import check
from curate.tables.rows import RolloutRow
from curate.tables.rows import whole as whole_row
from curate.tables.schema import COMPLETIONS, JUDGEMENTS, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS, TABLES
from curate.tables.store import VERSION, Store, Writer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "campaign"))
from cures import follow

from tests.beds.rows import commit, made

SHARDS = 2
RECIPE = {
    "name": "damage",
    "seed": 4,
    "ingest": {
        "sources": [
            {"kind": "synthetic", "name": "judge", "task": "bars_read", "rows": 4},
            {"kind": "synthetic", "name": "shard-train", "task": "table_lookup", "rows": 4},
        ]
    },
    "dedup": {},
    "rollout": {"engine": {"kind": "simulated", "model": "world"}, "samples": 2, "prompt": "short-five"},
    "label": {"mode": "exact", "completions": 1},
    "judge": {"engine": {"kind": "simulated", "model": "judge"}},
    "shard": {},
}


def curate(line):
    return CliRunner().invoke(app, line)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a recipe and its finished workspace `w`."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    # Few shards, so that a shard has rows of everything.
    (folder / "w").mkdir()
    (folder / "w" / "workspace.json").write_text(manifests.text(VERSION, SHARDS, "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = curate(["run", "recipe.yaml", "-w", "w"])
    assert result.exit_code == 0, result.exception
    return folder


@pytest.fixture
def live(whole, tmp_path, monkeypatch):
    """A copy of it, to be damaged."""
    shutil.copytree(whole, tmp_path / "live")
    monkeypatch.chdir(tmp_path / "live")
    return tmp_path / "live"


def rows(folder):
    place = Store.open(folder / "w", create=False)
    return {
        name: sorted(place.read(table).to_pylist(), key=lambda row, table=table: str([row[key] for key in table.key]))
        for name, table in TABLES.items()
    }


def first(folder, table, name="main"):
    return Store.open(folder / "w", create=False).partition(table, name).files()[0]


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def refused(line):
    """The sentence that a command ends with, all commands that there are having it first."""
    result = curate(line)
    assert isinstance(result.exception, UserError), result.exception or result.output
    said = str(result.exception)
    assert "\n" not in said
    return said


def torn_lineage(folder, table, name="main"):
    path = Store.open(folder / "w", create=False).partition(table, name).folder / lineage.FILE
    path.write_bytes(path.read_bytes()[:-20])


def no_file(folder, table, name="main"):
    first(folder, table, name).unlink()


def bit(folder, table, name="main"):
    flip(first(folder, table, name))


def bad_marker(folder, table, name="main"):
    flip(first(folder, table, name).with_suffix(".done"))


def cut(folder, table, name="main"):
    path = first(folder, table, name)
    path.write_bytes(path.read_bytes()[:-9])


def copied(folder, table, name="main"):
    path = first(folder, table, name)
    for each in (path, path.with_suffix(".done")):
        shutil.copy(each, each.with_name(each.name.replace("-0000.", "-0001.")))


def copied_partition(folder, table, name="main"):
    place = first(folder, table, name).parent
    shutil.copytree(place, place.with_name("kept"))


def foreign(folder, table, name="main"):
    path = first(folder, table, name)
    other = Store.open(folder / "other").partition(table, name)
    other.commit(int(path.name[5:10]), [])
    marker = path.with_suffix(".done")
    marker.write_bytes(sealed(unsealed(marker.read_bytes()) | {"workspace": "another"}))


@pytest.mark.parametrize(
    ("damage", "table", "name"),
    [
        *((each, ROLLOUTS, "main") for each in (torn_lineage, no_file, bad_marker, copied, copied_partition)),
        (bit, COMPLETIONS, "main"),
        (cut, TABLES["judgements"], "main"),
        (torn_lineage, PROBLEMS, "judge"),
        (bit, TABLES["images"], "judge"),
        (bit, STEP_LABELS, "main"),
        (torn_lineage, TABLES["examples"], "train"),
    ],
)
def test_damage_is_one_sentence_and_its_cure_works(whole, live, damage, table, name):
    expected = rows(whole)
    damage(live, table, name)
    said = refused(["sql", f"SELECT count(*) FROM {table.name}", "-w", "w"])
    commands = follow(said, live)
    for words in [*commands, ["curate", "run", "recipe.yaml", "-w", "w"]]:
        # It is told of one at a time where there are several.
        for _ in range(20):
            result = curate(words[1:])
            if not isinstance(result.exception, UserError):
                break
            assert follow(str(result.exception), live) or "delete" in str(result.exception)
        assert result.exit_code == 0, result.exception
    assert rows(live) == expected


def test_a_file_that_sql_cannot_open_is_named_with_its_cure(live):
    """DuckDB reads the end of every file for its views, also of tables that a statement does not name."""
    path, place = first(live, JUDGEMENTS), Store.open(live / "w", create=False)
    whole, named = path.read_bytes(), Counter()
    for back in range(9, len(whole) // 2, 97):
        path.write_bytes(whole[:-back] + bytes([whole[-back] ^ 4]) + whole[-back + 1 :])
        for work in (lambda: catalog.query(place, "SELECT count(*) FROM problems"), lambda: catalog.write(place)):
            try:
                work()
            except UserError as error:
                assert f"{path.name} is damaged" in str(error) and "`curate judge`" in str(error)
                named["refused"] += 1
    assert named["refused"] > 10


def test_a_damaged_import_is_imported_anew(live):
    named = Store.open(live / "w", create=False).read(PROBLEMS, ["source", "source_row"]).to_pylist()
    rows_of = [{"id": row["source_row"], "text": "Answer: 3"} for row in named if row["source"] == "judge"]
    (live / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of))
    words = ["import-rollouts", "given.jsonl", "--source", "judge", "--id", "id", "--response", "text", "-w", "w"]
    assert curate(words).exit_code == 0
    expected = rows(live)
    for damage in (bit, torn_lineage, no_file):
        damage(live, ROLLOUTS, "given")
        assert "import-rollouts --replace" in refused(["sql", "SELECT * FROM rollouts", "-w", "w"])
        result = curate([*words, "--replace"])
        assert result.exit_code == 0, result.exception
        assert rows(live) == expected


def test_another_number_of_shards_or_no_manifest_says_what_it_was(whole, live):
    manifest = live / "w" / "workspace.json"
    before = manifest.read_text()
    for text in (
        before.replace('"shards": 2', '"shards": 8'),
        before[:-5],
        before.replace("version", "verzion"),
        None,
    ):
        manifest.write_text(text) if text is not None else manifest.unlink()
        said = refused(["status", "-w", "w"])
        follow(said, live)
        assert manifest.read_text() == before
        assert curate(["status", "-w", "w"]).exit_code == 0


def test_a_file_of_another_workspace_is_refused(live, tmp_path):
    other = Store.open(tmp_path / "other")
    theirs = other.partition(REJECTS, "judge")
    row = {"stage": "s", "source": "judge", "source_row": "1", "problem_id": None, "domain": None, "reason": "r"}
    commit(theirs, [row | {"detail": "d", "rollout_id": None, "step_index": None}])
    ours = Store.open(live / "w", create=False).partition(REJECTS, "judge").folder
    shutil.copytree(theirs.folder, ours)
    said = refused(["sql", "SELECT * FROM rejects", "-w", "w"])
    assert "another workspace" in said
    follow(said, live)
    assert curate(["sql", "SELECT * FROM rejects", "-w", "w"]).exit_code == 0


def test_a_foreign_journal_is_refused_and_a_doubled_line_heals(whole, live):
    place = Store.open(live / "w", create=False)
    partition = place.partition(ROLLOUTS)
    shard = int(partition.files()[0].name[5:10])
    kept = list(partition.rows(RolloutRow, shard))
    partition.files(shard)[0].with_suffix(".done").unlink()
    journal = partition.journal(shard)
    for row in [*kept, kept[0]]:
        journal.append([row])
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([*lines, *lines[1:]]))
    settle(Writer(partition), shard)
    assert rows(live) == rows(whole)
    wrong = partition.folder / f"part-{(shard + 1) % SHARDS:05d}.journal"
    wrong.write_bytes(b"".join(lines))
    said = refused(["rollout", "recipe.yaml", "-w", "w"])
    assert "another place" in said
    follow(said, live)
    assert curate(["rollout", "recipe.yaml", "-w", "w"]).exit_code == 0
    assert rows(live) == rows(whole)


def test_rows_without_their_record_are_known_by_their_settings(whole, live):
    record = live / "w" / "tables" / "rollouts" / "main" / lineage.FILE
    record.unlink()
    said = refused(["rollout", "recipe.yaml", "-w", "w", "--set", "rollout.sampling.temperature=0.5"])
    assert "rows of other settings" in said
    assert curate(["rollout", "recipe.yaml", "-w", "w"]).exit_code == 0
    assert rows(live) == rows(whole)


def test_a_source_may_have_the_name_of_a_stage_and_keeps_its_rejects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [{"question": f"How many? {n}", "answer": str(n) if n % 2 else None} for n in range(6)]
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ["judge", "shard-train"]
    for name in names:
        source = {"kind": "files", "name": name, "path": "rows.jsonl", "domain": name}
        recipe = RECIPE | {"ingest": {"sources": [source]}}
        Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
        result = curate(["run", "recipe.yaml", "-w", name])
        assert result.exit_code == 0, result.exception
        found = Store.open(Path(name), create=False).read(REJECTS).to_pylist()
        assert sum(row["stage"] == "ingest" for row in found) == 3
    for name in ("main", "MAIN"):
        Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"ingest": {"sources": [source | {"name": name}]}}))
        assert "rename it" in refused(["ingest", "recipe.yaml", "-w", "z"])


BAD = [
    {"token_ids": [2**40]}, {"token_ids": [1, -3]}, {"token_ids": [1, 2.0]}, {"prompt_tokens": 1e30},
    {"prompt_tokens": 10**30}, {"tokens": True}, {"mean_logprob": float("nan")}, {"mean_logprob": float("inf")},
    {"mean_logprob": 10**400}, {"text": "\ud800"}, {"text": None}, {"text": 3}, {"outcome": "yes"}, {"steps": "a"},
    {"steps": ["a", 3]}, {"sample_index": -1}, {"finish": None, "text": b"x"},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=str)
def test_a_row_that_no_file_can_hold_is_a_reason_and_no_crash(whole, change):
    row = next(Store.open(whole / "w", create=False).rows(RolloutRow))
    check(ROLLOUTS, [row])
    with pytest.raises(RowError, match=f"bad-value: {list(change)[-1]} of rollouts is"):
        check(ROLLOUTS, [replace(row, **change)])
    check(ROLLOUTS, [replace(row, seed=-5, mean_logprob=None)])


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=6))
def test_whatever_passes_the_check_can_be_written(value):
    for table in (ROLLOUTS, COMPLETIONS):
        for column in table.schema:
            row = made(whole_row(table), **{column.name: value})
            try:
                check(table, [row])
            except RowError:
                continue
            written = table.to_arrow([row])[column.name].to_pylist()
            assert written == [value] or isinstance(value, int | float), (row, value)


ANSWERS = """
import curate.engines.simulated as simulated
from dataclasses import replace
real = simulated.SimulatedEngine.generate
async def generate(self, request):
    samples = await real(self, request)
    return [replace(each, prompt_tokens=10**30) if request.request_id.endswith("-000") and request.n == 2 and
            int(request.request_id[:4], 16) % 3 == 0 else each for each in samples]
simulated.SimulatedEngine.generate = generate
from curate.cli.app import main
main()
"""


def test_a_poisoned_answer_fails_its_unit_and_the_next_run_gets_it(whole, live):
    shutil.rmtree(live / "w" / "tables" / "rollouts")
    words = ["rollout", "recipe.yaml", "-w", "w", "--set", "rollout.error_budget=0.9", "--json"]
    ran = subprocess.run([sys.executable, "-c", ANSWERS, *words], capture_output=True, text=True, cwd=live)
    assert ran.returncode == 0, ran.stderr
    failed = json.loads(ran.stdout)["rollout"]["failed"]["bad-value"]
    assert failed > 0
    listed = Store.open(live / "w", create=False).read(REJECTS).to_pylist()
    assert {row["reason"] for row in listed if row["stage"] == "rollout"} == {"bad-value"}
    assert "prompt_tokens of rollouts is 1000" in next(row["detail"] for row in listed if row["stage"] == "rollout")
    assert curate(["rollout", "recipe.yaml", "-w", "w"]).exit_code == 0
    assert rows(live)["rollouts"] == rows(whole)["rollouts"]


def test_the_error_budget_is_a_share_of_all_that_is_wanted():
    failed = Outcome(done=3, failed=[(Unit(0, None), RowError("r", "d"))] * 2)
    failed.check(100, 0.02, "problems")
    with pytest.raises(BudgetError, match="2 of 99 problems"):
        failed.check(99, 0.02, "problems")
