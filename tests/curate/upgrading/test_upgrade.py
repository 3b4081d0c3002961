"""A workspace of an earlier release is brought up to date, whatever happens, and every later stage goes on."""

import json
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import curate
from curate import graders, pipeline
from curate.cli.app import app
from curate.errors import UserError
from curate.runtime.durable import sealed, unsealed
from curate.runtime.reporter import Silent
from curate.tables import lineage, rewriting, store
from curate.tables.rows import RejectRow, RolloutRow, UpdateRow, whole
from curate.tables.schema import REJECTS, ROLLOUTS, TABLES, UPDATES
from curate.tables.store import Store
from curate.upgrading import layout, migrations, regrading, settings, upgrade
from curate.upgrading.migrations import MIGRATIONS, MigrationContext
from prm.cli.app import app as prm_app

HERE = Path(__file__).parent / "version-6"


@pytest.fixture
def old(tmp_path):
    """The workspace as commit 66bda91 left it, with the recipe and the files that it was made from."""
    shutil.copytree(HERE, tmp_path / "at", dirs_exist_ok=True)
    with zipfile.ZipFile(HERE / "workspace.zip") as packed:
        packed.extractall(tmp_path / "at" / "w")
    return tmp_path / "at" / "w"


def rows(root: Path) -> dict[str, list]:
    """Every committed row by table, in the order of their keys."""
    place = Store.open(root, create=False)
    return {
        table.name: sorted(place.rows(whole(table)), key=lambda row, table=table: repr(table.key_of(row)))
        for table in TABLES.values()
    }


def refused(work) -> str:
    with pytest.raises(UserError) as error:
        work()
    said = str(error.value)
    assert "\n" not in said
    return said


def test_an_old_workspace_is_refused_with_its_cure(old):
    said = refused(lambda: Store.open(old, create=False))
    assert f"run `curate upgrade --workspace {old}`" in said
    assert CliRunner().invoke(app, ["status", "-w", str(old)]).exit_code != 0


def test_no_row_is_lost_and_the_second_time_nothing_is_done(old):
    with zipfile.ZipFile(HERE / "workspace.zip") as packed:
        names = [name for name in packed.namelist() if name.endswith(".done")]
        there = Counter(dict.fromkeys(TABLES, 0) | Counter({}))
        for name in names:
            there[name.split("/")[1]] += json.loads(packed.read(name))["rows"]
    images = {path: path.read_bytes() for path in old.glob("tables/images/*/*.parquet")}
    result = curate.upgrade(old)
    assert result.layout and {each.table for each in result.migrated} == {
        "rejects", "rollouts", "completions", "step_labels", "judgements", "updates"
    }  # fmt: skip
    found = rows(old)
    # Three rollouts were in the journal of a killed run.
    assert {name: len(each) for name, each in found.items()} == {**there, "rollouts": there["rollouts"] + 3}
    # What did not change is not written anew.
    assert {path: path.read_bytes() for path in images} == images
    again = curate.upgrade(old)
    assert not again.changed and rows(old) == found


def test_what_was_hidden_in_texts_has_columns_of_its_own(old):
    curate.upgrade(old)
    place = Store.open(old, create=False)
    names = {row.rollout_id for row in place.rows(RolloutRow)}
    rejects = list(place.rows(RejectRow))
    by_stage = {stage: [row for row in rejects if row.stage == stage] for stage in {row.stage for row in rejects}}
    assert by_stage.keys() >= {"ingest", "rollout", "label", "shard", "import"}
    for row in by_stage["label"]:
        sample, step = row.source_row.rsplit("/", 2)[1:]
        assert row.rollout_id in names and row.rollout_id == f"{row.problem_id}-{int(sample):03d}"
        assert row.step_index == int(step)
    for row in by_stage["shard"]:
        assert row.rollout_id in names and row.step_index is None
    for stage in ("ingest", "rollout", "import"):
        assert all(row.rollout_id is None and row.step_index is None for row in by_stage[stage])
    assert {row.upper_rule for row in place.rows(UpdateRow)} == {"mirror"}
    # Rejects of stages lie where this release looks for them.
    assert {part.folder.name for part in place.partitions(REJECTS)} == {
        "_label", "_rollout", "_shard-train", "given", "written"
    }  # fmt: skip


def test_texts_are_graded_anew_and_steps_stay(old):
    with zipfile.ZipFile(HERE / "workspace.zip") as packed:
        packed.extractall(old.parent / "before")
    layout.renew(old.parent / "before")
    raw = old.parent / "before" / "tables" / "rollouts" / "given"
    import pyarrow.parquet as pq

    before = {row["rollout_id"]: row for path in raw.glob("*.parquet") for row in pq.read_table(path).to_pylist()}
    curate.upgrade(old)
    place = Store.open(old, create=False)
    after = {row.rollout_id: row for row in place.partition(ROLLOUTS, "given").rows(RolloutRow)}
    assert before.keys() == after.keys()
    assert all(after[name].steps == row["steps"] and after[name].text == row["text"] for name, row in before.items())
    # "#### 7" said nothing to the rules of then.
    changed = {after[name].text for name, row in before.items() if after[name].outcome != row["outcome"]}
    assert changed == {"Some are red.\n#### 7"}
    for partition in (place.partition(ROLLOUTS), place.partition(ROLLOUTS, "given")):
        record = lineage.read(partition)
        assert record["config"]["answers"] == graders.VERSION
        assert record["upgraded_from"]["answers"] is None


def test_every_later_stage_goes_on(old, monkeypatch):
    curate.upgrade(old)
    recipe, place = old.parent / "recipe.yaml", Store.open(old)
    there = {row.rollout_id for row in place.rows(RolloutRow)}
    given = curate.load(recipe)
    for stage in ("ingest", "dedup", "decontaminate", "rollout", "label", "shard"):
        ledger = pipeline.run(given, place, Silent(), [stage])[stage]
        assert ledger.adds_up()
    # All that was sampled is still there, and what is asked for is what the recipe wants beyond it.
    assert there <= {row.rollout_id for row in place.rows(RolloutRow)}
    assert not list(place.partition(ROLLOUTS).journals())
    # The file is cut otherwise now, so it would come in a second time; that is refused, and to start over is cheap.
    words = ["import-rollouts", "given.jsonl", "--source", "written", "--id", "q", "--response", "said"]
    monkeypatch.chdir(old.parent)
    result = CliRunner().invoke(app, [*words, "--policy", "other", "-w", "w"])
    assert isinstance(result.exception, UserError) and "other settings (steps: 2 -> 3)" in str(result.exception)
    result = CliRunner().invoke(app, [*words, "--policy", "other", "-w", "w", "--replace"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["judge", "recipe.yaml", "-w", "w", "--set", "judge.error_budget=1"])
    assert result.exit_code == 0, result.output


def test_training_goes_on(old):
    (old.parent.parent / "backbone").symlink_to(Path(__file__).parents[3] / "data" / "demo" / "backbone")
    curate.upgrade(old)
    before = rows(old)
    recipe = old.parent / "recipe.yaml"
    # What was trained is reported on as it is; a PRM of its own is asked for where one is needed.
    words = [str(recipe), "-w", str(old)]
    for command in (["select"], ["report"], ["train", "--replace"], ["score", "--replace"], ["select"], ["report"]):
        result = CliRunner().invoke(prm_app, [command[0], *words, *command[1:]])
        assert result.exit_code == 0, (command, result.output, result.exception)
    after = rows(old)
    assert {row.run for row in after["updates"]} == {row.run for row in before["updates"]} == {"seed-0", "null-0"}
    assert len(after["step_scores"]) == len(before["step_scores"])
    for name in ("problems", "rollouts", "completions", "judgements"):
        assert after[name] == before[name]


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("writes", [0, 1, 2, 5, 30, 60, 90, 110, 120])
def test_a_killed_upgrade_goes_on(old, monkeypatch, writes):
    shutil.copytree(old, old.parent / "whole")
    curate.upgrade(old.parent / "whole")
    honest, left = store.write_atomic, writes

    def dying(path, data, alone=True):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        honest(path, data, alone)

    with monkeypatch.context() as patched:
        for module in (store, layout, upgrade, settings, lineage):
            patched.setattr(module, "write_atomic", dying, raising=False)
        with pytest.raises(Killed):
            curate.upgrade(old)
    curate.upgrade(old)
    assert rows(old) == rows(old.parent / "whole")
    # Nothing is left of the half-written files.
    assert not list(old.rglob(".anew"))


def test_a_kill_between_the_renames_of_a_file_and_its_marker_is_made_good(old, monkeypatch):
    shutil.copytree(old, old.parent / "whole")
    curate.upgrade(old.parent / "whole")

    def dies(_partition):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(
            rewriting, "finish", lambda partition: None if not list(partition.folder.glob(".anew")) else dies(0)
        )
        with pytest.raises(Killed):
            curate.upgrade(old)
    curate.upgrade(old)
    assert rows(old) == rows(old.parent / "whole")


def test_a_workspace_of_a_later_release_is_refused(old):
    curate.upgrade(old)
    manifest = old / "workspace.json"
    text = manifest.read_text()
    marker = next(old.glob("tables/rollouts/main/*.done"))
    manifest.write_text(text.replace('"version": 7', '"version": 8'))
    # What its tables say is that it was damaged: they are of this release.
    assert "put this text in its place" in refused(lambda: Store.open(old, create=False))
    manifest.write_text(text)
    record = unsealed(marker.read_bytes())
    marker.write_bytes(sealed(record | {"version": record["version"] + 1}))
    for work in (lambda: curate.upgrade(old), lambda: curate.Workspace(old).arrow("rollouts")):
        said = refused(work)
        assert "written by a later release of curate-prm" in said and "table rollouts of version 5" in said
    # Tables that this release knows can still be read.
    assert curate.Workspace(old).arrow("problems").num_rows > 0


def test_a_workspace_that_is_too_old_or_none_is_refused(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "workspace.json").write_text('{"version": 5, "shards": 2}')
    assert "from version 6 on" in refused(lambda: curate.upgrade(tmp_path))
    (tmp_path / "workspace.json").write_text('{"version": "x"}')
    assert "is damaged" in refused(lambda: curate.upgrade(tmp_path))
    assert "no workspace" in refused(lambda: curate.upgrade(tmp_path / "nowhere"))


@pytest.mark.parametrize("what", ["marker", "rows", "record", "short"])
def test_a_damaged_file_stops_the_upgrade_and_is_named(old, what):
    if what == "record":
        path = old / "tables" / "rollouts" / "main" / "lineage.json"
        path.write_text(path.read_text()[:-5])
    elif what == "marker":
        path = next(old.glob("tables/completions/main/*.done"))
        path.write_text("{")
    else:
        path = next(old.glob("tables/completions/main/*.parquet"))
        data = bytearray(path.read_bytes())
        if what == "short":
            del data[-20:]
        else:
            data[60:80] = bytes(20)
        path.write_bytes(data)
    said = refused(lambda: curate.upgrade(old))
    assert path.name.removesuffix(".done") in said and "restore it from a copy" in said


def test_a_table_whose_columns_changed_can_be_migrated_from_every_version_of_the_fixture():
    for table in TABLES.values():
        first = min((version for name, version in MIGRATIONS if name == table.name), default=table.version)
        assert [version for version in range(first, table.version) if (table.name, version) not in MIGRATIONS] == []
    with pytest.raises(UserError, match="table rollouts has rows of version 1, which this release cannot read"):
        migrations.check(ROLLOUTS, 1)


def test_a_reject_of_a_problem_that_is_gone_keeps_its_text():
    import pyarrow as pa

    plain = {"stage": "label", "source": "s", "source_row": "a/b/3/1", "problem_id": "p", "domain": "d", "reason": "r"}
    data = pa.Table.from_pylist([plain | {"detail": "x"}, plain | {"detail": "x", "problem_id": "gone"}])
    context = MigrationContext({}, {"p": "a/b"}, {("p", 3): "p-003"})
    found = migrations.migrated(REJECTS, 1, data, context).to_pylist()
    assert [(row["rollout_id"], row["step_index"]) for row in found] == [("p-003", 1), (None, None)]
    assert [row["source_row"] for row in found] == ["a/b/3/1"] * 2


def test_words_that_answers_were_read_with_are_those_of_the_record():
    assert regrading.words_of({}) == graders.KNOWN
    assert regrading.words_of({"answer_words": {"answer": ["svar"]}}) != graders.KNOWN


def test_the_command_says_what_it_did(old):
    result = CliRunner().invoke(app, ["upgrade", "-w", str(old)])
    assert result.exit_code == 0, result.output
    assert "rollouts" in result.output and "1 outcomes changed" in result.output
    assert "up to date" in CliRunner().invoke(app, ["upgrade", "-w", str(old)]).output
    assert json.loads(CliRunner().invoke(app, ["upgrade", "-w", str(old), "--json"]).stdout)["migrated"] == []
    assert UPDATES.version == 4
