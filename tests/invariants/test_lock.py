"""One command writes to a workspace at a time; whoever reads neither waits nor locks."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from curate.cli.app import app as curate_app
from curate.errors import UserError
from curate.tables import lock
from curate.tables.store import Store
from prm.cli.app import app as prm_app

RECIPE = {
    "name": "lock",
    "seed": 3,
    "ingest": {"sources": [{"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": 8}]},
    "dedup": {},
    "decontaminate": {},
    "rollout": {"engine": {"kind": "simulated", "model": "world"}, "samples": 2, "prompt": "short-five"},
    "label": {"mode": "exact", "completions": 1},
    "judge": {"engine": {"kind": "simulated", "model": "judge"}},
    "shard": {},
    "train": {"model": "backbone"},
    "score": {},
    "select": {},
    "report": {},
}
# Every command that writes to a workspace, as it is typed in the folder of `bed`.
WRITING = [
    "curate ingest recipe.yaml", "curate dedup recipe.yaml", "curate decontaminate recipe.yaml",
    "curate rollout recipe.yaml", "curate label recipe.yaml", "curate relabel recipe.yaml", "curate judge recipe.yaml",
    "curate shard recipe.yaml", "curate run recipe.yaml", "curate import-rollouts given.jsonl --id id --response text",
    "curate remove-import given", "curate plan recipe.yaml --pilot 1", "prm train recipe.yaml",
    "prm train recipe.yaml --parallel 2",
    "prm score recipe.yaml", "prm select recipe.yaml", "prm report recipe.yaml", "prm report w",
    "prm report w --against other", "prm eval calibration",
]  # fmt: skip
READING = [
    "curate status", "curate show PROBLEM", "curate sql 'SELECT 1'", "curate profile", "curate plan recipe.yaml",
    "curate rollout recipe.yaml --dry-run", "curate ingest recipe.yaml --dry-run", "curate recipes",
]  # fmt: skip
HELD = {"command": "curate run other.yaml", "pid": 1, "user": "ada", "host": "loom", "since": "2026-01-02 03:04:05 UTC"}


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """A folder with a recipe and a workspace `w` that went through all stages of `curate`."""
    folder = tmp_path_factory.mktemp("bed")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "given.jsonl").write_text('{"id": "1", "text": "Answer: 3"}\n')
    with contextlib.chdir(folder):
        Store.open(folder / "other")
        for stage in ("ingest", "rollout", "label", "judge", "shard"):
            assert typed(f"curate {stage} recipe.yaml").exit_code == 0
    return folder


def typed(line, workspace="w"):
    """A command in this process; its exit code is not the shell's where it raises UserError."""
    program, *words = [word.strip("'") for word in line.replace("'SELECT 1'", "SELECT_1").split()]
    words = [word.replace("SELECT_1", "SELECT 1") for word in words]
    if "w" not in words:
        words += [] if words == ["recipes"] or ("--dry-run" in words and words[0] == "ingest") else ["-w", workspace]
    return CliRunner().invoke({"curate": curate_app, "prm": prm_app}[program], words)


@contextlib.contextmanager
def somebody_writes(root):
    """The lock as another process has it: flock is by open file, also within one process."""
    descriptor = os.open(root / lock.FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.pwrite(descriptor, json.dumps(HELD).encode().ljust(1000), 0)
    try:
        yield
    finally:
        os.close(descriptor)


def tree(root):
    return {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize("line", WRITING)
def test_a_second_command_that_writes_is_refused_and_changes_nothing(bed, line):
    with contextlib.chdir(bed), somebody_writes(bed / "w"):
        before = tree(bed / "w")
        result = typed(line)
        assert isinstance(result.exception, UserError), result.output
        said = str(result.exception)
        assert "being written by `curate run other.yaml` (process 1 of ada on loom, since 2026-01-02 03:04:05" in said
        assert tree(bed / "w") == before


@pytest.mark.parametrize("line", READING)
def test_whoever_reads_does_not_wait_and_does_not_lock(bed, line):
    problem = Store.open(bed / "w", create=False).read(*tables("problem_id"))["problem_id"][0].as_py()
    with contextlib.chdir(bed), somebody_writes(bed / "w"):
        before = {path for path in tree(bed / "w") if "reports" not in path.parts and "cache" not in path.parts}
        result = typed(line.replace("PROBLEM", problem))
        assert result.exit_code == 0, result.exception or result.output
        after = {path for path in tree(bed / "w") if "reports" not in path.parts and "cache" not in path.parts}
        assert after == before


def tables(*columns):
    from curate.tables.schema import PROBLEMS

    return PROBLEMS, list(columns)


def test_a_block_may_hold_the_lock_again_and_gives_it_back_at_the_end(tmp_path):
    place = Store.open(tmp_path)
    assert not lock.holds(tmp_path)
    with place.writing():
        with place.writing():
            assert lock.holds(tmp_path)
        assert lock.holds(tmp_path)
    assert not lock.holds(tmp_path)
    with somebody_writes(tmp_path), pytest.raises(UserError, match="ada on loom"), place.writing():
        raise AssertionError("two write")


def test_a_lock_file_that_was_deleted_keeps_nobody_out_and_lets_no_two_in(tmp_path):
    place = Store.open(tmp_path)
    with somebody_writes(tmp_path):
        (tmp_path / lock.FILE).unlink()
        with place.writing():
            assert os.path.samestat((tmp_path / lock.FILE).stat(), os.fstat(lock._held[tmp_path.resolve()].descriptor))


def test_a_file_system_without_locks_is_told_in_a_sentence(tmp_path, monkeypatch, capfd):
    place = Store.open(tmp_path)

    def nothing(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", nothing)
    with place.writing():
        assert lock.holds(tmp_path)
    said = capfd.readouterr().err
    assert "has no locks" in said
    assert said.count("\n") == 1


def command(*words, **rest):
    line = [sys.executable, "-c", "from curate.cli.app import main; main()", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **rest)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_two_terminals(tmp_path):
    """The second says who writes and ends with 2; after kill -9 of the first the lock is free."""
    slow = json.loads(json.dumps(RECIPE))
    slow["rollout"]["engine"] |= {"in_flight": 1, "args": {"latency": 1.5}}
    recipe, root = tmp_path / "slow.yaml", tmp_path / "w"
    recipe.write_text(yaml.safe_dump(slow))
    assert command("ingest", recipe, "-w", root).wait(60) == 0
    first = command("rollout", recipe, "-w", root)
    assert wait_for(lambda: list(root.glob("tables/rollouts/main/*.journal")))
    second = command("label", recipe, "-w", root)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"rollout {recipe} -w {root}` (process {first.pid} of " in said
    assert said.count("\n") == 1
    # Stopped is not ended.
    first.send_signal(signal.SIGSTOP)
    third = command("ingest", recipe, "-w", root)
    assert third.wait(60) == 2
    first.send_signal(signal.SIGCONT)
    first.kill()
    first.wait()
    recipe.write_text(yaml.safe_dump(RECIPE))
    last = command("rollout", recipe, "-w", root)
    said, _ = last.communicate(timeout=60)
    assert last.returncode == 0, said
    assert Store.open(root, create=False).read(*rollouts()).num_rows == 16


def rollouts():
    from curate.tables.schema import ROLLOUTS

    return (ROLLOUTS,)


PARENT = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from curate.tables.store import Store

def write(share, pipe):
    share.take()
    pipe.send(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    place = Store.open(Path(sys.argv[1]))
    with place.writing():
        found = []
        for way in sys.argv[2:]:
            if way == "fork":
                child = os.fork()
                if not child:
                    time.sleep(600)
                found.append(child)
            if way == "exec":
                found.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
            if way == "share":
                ours, theirs = multiprocessing.get_context("spawn").Pipe()
                multiprocessing.get_context("spawn").Process(target=write, args=(place.share(), theirs)).start()
                found.append(ours.recv())
        print(*found, flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize(("ways", "free"), [(("fork", "exec"), True), (("share",), False)])
def test_children_that_outlive_a_killed_command_hold_the_lock_only_where_they_write(tmp_path, ways, free):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, tmp_path / "w", *ways], stdout=subprocess.PIPE, text=True)
    children = [int(word) for word in parent.stdout.readline().split()]
    try:
        assert len(children) == len(ways)
        parent.kill()
        parent.wait()
        for child in children:
            os.kill(child, 0)
        place = Store.open(tmp_path / "w", create=False)
        if free:
            with place.writing():
                pass
        else:
            with pytest.raises(UserError, match="a process that it started still writes"), place.writing():
                pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        parent.stdout.close()
    with place.writing():
        pass
