"""Several processes on one run (gloo): the same run, one voice, and an end to all when one ends."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
import yaml
from distributed_worker import CASES, begin, outcome, resumed, saved, settings
from prm_testbed import example_rows, fill
from train_testbed import evaluations, updates
from train_testbed import settings as train_settings

from prm.config import TrainConfig
from prm.distributed.process_group import ALONE, ProcessGroup
from prm.distributed.torch_group import cut, deal
from prm.model.reward_model import Prm
from prm.model.saved import model_folder
from prm.training import train

BEDS = Path(__file__).parents[2] / "beds"
# The sides differ in the order of float64 additions alone: some 1e-16 of a sum, a little more where terms cancel, which
# 16 steps of Adam carry along and hardly amplify. Measured with 2, 3 and 5 processes: at most 1e-13.
TOLERANCE = 1e-12


def launch(what: str, folder: Path) -> list[BaseProcess]:
    """Two workers, forked from a process that has imported what they import."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    context = multiprocessing.get_context("forkserver")
    # One such process serves all tests, those of `prm.training.parallel`, too. It looks for modules on the paths of its
    # own.
    context.set_forkserver_preload(["prm.training.train", "distributed_worker"])
    monkeypatched = pytest.MonkeyPatch()
    monkeypatched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    forkserver.ensure_running()
    monkeypatched.undo()
    started = []
    for rank in range(2):
        environ = group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        said = folder / f"said-{rank}"
        started.append(context.Process(target=begin, args=(what, folder, environ, said), name=str(said)))
        started[-1].start()
    return started


def ended(workers: list[BaseProcess], seconds: float = 60) -> list[tuple[int | None, str]]:
    """Exit code and standard error of each; they must end in time."""
    try:
        for one in workers:
            one.join(seconds)
        return [(one.exitcode, Path(one.name).read_text()) for one in workers]
    finally:
        for one in workers:
            one.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What two processes found, each; and where their checkpoints lie."""
    folder = tmp_path_factory.mktemp("pair")
    saved(settings(**CASES["averaged"]), ALONE, folder / "one.safetensors", 8)
    assert ended(launch("equal", folder)) == [(0, ""), (0, "")]
    return folder, [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


def near(one, other, tolerance: float = TOLERANCE) -> bool:
    """Whether two numbers are equal to the tolerance, or two nulls, or two dictionaries of them."""
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key], tolerance) for key in other)
    return one is other if other is None else one == pytest.approx(other, rel=tolerance, abs=tolerance)


def assert_same_run(ours: dict, alone: dict) -> None:
    assert len(ours["updates"]) == len(alone["updates"])
    for one, other in zip(ours["updates"], alone["updates"], strict=True):
        assert (one["number"], one["step"], one["tally"]["rows"]) == (
            other["number"], other["step"], other["tally"]["rows"]
        )  # fmt: skip
        for name in ("weights", "raw", "dots"):
            assert near(one[name], other[name])
        assert near(one["tally"]["losses"], other["tally"]["losses"])
        assert near(one["meta_loss"], other["meta_loss"])
    for one, other in zip(ours["parameters"], alone["parameters"], strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_the_one_process_run(pair, case, sharding):
    (ours, theirs), alone = (found[sharding, case] for found in pair[1]), outcome(settings(**CASES[case]), ALONE)
    assert_same_run(ours, alone)
    assert (ours["clipped"], ours["skipped"]) == (alone["clipped"], alone["skipped"])
    assert [vars_["weights"] for vars_ in theirs["updates"]] == [vars_["weights"] for vars_ in ours["updates"]]
    assert len(alone["updates"]) >= 3
    assert (alone["updates"][-1]["weights"] != dict.fromkeys("abc", 1.0)) == (case != "uniform")


def test_the_cases_clip_and_skip():
    runs = {case: outcome(settings(**changes), ALONE) for case, changes in CASES.items()}
    assert runs["clipped"]["clipped"] == 16
    assert 0 < runs["clip skipped"]["skipped"] < 6
    last = [runs[case]["updates"][-1]["dots"]["a"] for case in ("clipped", "clip ignored")]
    assert last[0] != pytest.approx(last[1], rel=1e-3)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_run_goes_on_with_another_number_of_processes(pair, sharding):
    folder, found = pair
    config = settings(**CASES["averaged"])
    alone = outcome(config, ALONE)
    assert_same_run(found[0][sharding, "resumed"], alone)
    assert_same_run(resumed(config, ALONE, folder / f"two-{sharding}.safetensors"), alone)


def test_processes_that_differ_are_told_apart(tmp_path):
    assert [code for code, _ in ended(launch("differing", tmp_path))] == [0, 0]
    for rank in range(2):
        said = (tmp_path / f"weights-{rank}").read_text()
        assert said.startswith("after step 0 the processes differ in weight a: 1.0 on process 0, 0.99")
        assert said.endswith("on process 1 (difference -2.4e-10)")
        assert "the sum of all parameters" in (tmp_path / f"parameters-{rank}").read_text()


@pytest.mark.parametrize("what", ["killed", "sharded-killed", "failed", "sharded-hung"])
def test_one_that_is_lost_ends_the_others(tmp_path, what):
    """In seconds: at once when it died, after the patience (3 s here) when it hangs."""
    workers, began = launch(what, tmp_path), time.monotonic()
    if what.endswith("hung"):
        workers[0].join(40)
        workers[1].kill()
    (code, said), (other_code, other_said) = ended(workers)
    assert time.monotonic() - began < 40
    assert code == 1
    assert said.startswith("Failed: another process ended or hung")
    assert "Traceback" not in said
    if what == "failed":
        assert other_code == 1
        assert other_said.strip().endswith("ValueError: no room")
    elif what == "killed":
        assert (other_code, other_said) == (-signal.SIGKILL, "")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("refused", "Error: On process 1: The folder is not there; make it.\n"),
        ("puzzled", "Error: Nobody can do that; try something else.\n"),
    ],
)
def test_what_a_user_can_mend_is_said_once(tmp_path, what, message):
    assert ended(launch(what, tmp_path)) == [(2, message), (2, "")]


def test_dealing_is_even_in_number_and_nearly_in_tokens():
    costs = [70, 10, 40, 30, 20, 60, 50]
    dealt, left = deal(costs, 3)
    assert sorted([*(place for hand in dealt for place in hand), *left]) == list(range(7))
    assert [len(hand) for hand in dealt] == [2, 2, 2]
    assert left == [1]
    assert sorted(sum(costs[place] for place in hand) for hand in dealt) == [90, 90, 90]
    assert deal([5, 6], 4) == ([[], [], [], []], [1, 0])


def test_cutting_keeps_the_order_and_leaves_nothing_out():
    assert cut([10] * 8, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut([90, 10, 10, 10], 2) == [[0], [1, 2, 3]]
    assert cut([1, 1], 4) == [[], [0], [], [1]]


def recipe(config: TrainConfig, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "seed": 5, "train": config.model_dump(mode="json")}))
    return path


def torchrun(path: Path, workspace, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "prm"]
    return subprocess.Popen(
        [*command, *words, str(path), "-w", str(workspace.root)],
        cwd=BEDS.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_same_tables(ours, alone, tolerance: float) -> None:
    rows, expected = updates(ours), updates(alone)
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        assert {key: row[key] for key in ("run", "update", "domain", "rows")} == {
            key: other[key] for key in ("run", "update", "domain", "rows")
        }
        for name in ("weight", "train_loss", "meta_loss"):
            assert near(row[name], other[name], tolerance), (name, row, other)


def assert_same_models(ours, alone, lr: float) -> None:
    """float32: where a gradient is rounding noise Adam makes whole steps of it, so a few entries may differ by some."""
    one, other = (Prm.load(str(model_folder(w, "seed-0"))).state_dict() for w in (ours, alone))
    apart = torch.cat([(a - b).abs().flatten() for a, b in zip(one.values(), other.values(), strict=True)])
    assert (apart < 0.01 * lr).double().mean() > 0.99
    assert apart.max() < 6 * 2 * lr


@pytest.mark.parametrize(("sharding", "freeze"), [("none", True), ("full", False)])
def test_torchrun_trains_what_one_process_trains(tiny_model, make_workspace, tmp_path, sharding, freeze):
    """Here with rows without images among the others: a process may meet none when its neighbour does. Layers that
    are computed again are so as shards, too.
    """
    config = train_settings(
        tiny_model,
        rows_per_domain=3,
        micro_rows=2,
        sharding=sharding,
        freeze_vision=freeze,
        checkpointing=not freeze,
        validation={"every": 1, "share": 0.3, "patience": 2},
    )
    alone, ours = make_workspace("alone"), make_workspace("ours")
    for workspace in (alone, ours):
        rows, _ = example_rows(6, "train", ("a", "b", "c"), seed=7)
        fill(workspace, "texts", [row | {"image_hashes": []} for row in rows], [])
    train.run(config, alone, 5)
    out, said = torchrun(recipe(config, tmp_path), ours, "train").communicate(timeout=200)
    assert out.count("train: ") == 1, said
    assert said.count("steps of 2 runs in") == 1
    assert_same_tables(ours, alone, 1e-3)
    assert_same_models(ours, alone, config.lr)
    assert not list(ours.root.rglob("checkpoint*")) + list(ours.root.rglob("best*"))
    found, expected = (evaluations(workspace) for workspace in (ours, alone))
    assert [(row["run"], row["step"], row["kept"]) for row in found] == [
        (row["run"], row["step"], row["kept"]) for row in expected
    ]
    assert [row["value"] for row in found] == pytest.approx([row["value"] for row in expected], rel=1e-3)
    # Ended early, with an earlier state.
    assert max(row["step"] for row in found if row["run"] == "seed-0") < config.steps
    assert len(list((ours.root / "runs").glob("*"))) == 1


def test_ctrl_c_saves_shards_that_one_process_goes_on_with(tiny_model, make_workspace, tmp_path):
    config = train_settings(tiny_model, null_runs=0, steps=60, checkpoint_every=1, sharding="full")
    alone, ours = make_workspace("alone"), make_workspace("ours")
    process = torchrun(recipe(config, tmp_path), ours, "train")
    deadline = time.monotonic() + 120
    while not list(ours.root.rglob("checkpoint.safetensors")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("Interrupted; what was finished is kept") == 1
    steps = []
    train.run(config, ours, 5, lambda run, step, *_: steps.append(step))
    assert 1 < steps[0] < 60
    train.run(config, alone, 5)
    assert_same_tables(ours, alone, 1e-2)


def test_one_process_pays_nothing_for_the_others():
    code = (
        "import sys, torch; found = lambda: {name for name in sys.modules if 'distributed' in name}; before = found();"
        # The room and what one process by itself is: neither imports anything of torch's.
        "before |= {'prm.distributed', 'prm.distributed.process_group'};"
        "import prm.bilevel.loop, prm.training.checkpoint; print(*(found() - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
    assert ProcessGroup().share([1, 2], lambda item: item) == [([1, 2], True)]
