"""A byte that changed in a checkpoint or a saved PRM is noticed, and the cure that is told works."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from train_testbed import settings, updates

from curate.errors import UserError
from curate.tables.schema import STEP_SCORES
from prm.model.digests import CARD
from prm.model.saved import model_folder
from prm.scoring import score
from prm.training import train

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "campaign"))
from cures import follow


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def scores(workspace):
    return {(row["rollout_id"], row["step_index"]): row["score"] for row in workspace.read(STEP_SCORES).to_pylist()}


@pytest.fixture(scope="module")
def trained(tiny_model, tmp_path_factory):
    from prm_testbed import example_rows, fill

    from curate.tables.store import Store

    workspace = Store.open(tmp_path_factory.mktemp("trained") / "w")
    for role, count in (("train", 6), ("meta", 4), ("test", 3)):
        fill(workspace, role, *example_rows(count, role, ("a", "b")))
    config = settings(tiny_model, steps=2, null_runs=0, checkpoint_every=1)
    train.run(config, workspace, 5)
    score.run(workspace)
    return workspace, config


def test_every_file_of_a_saved_prm_is_vouched_for(trained, tmp_path):
    workspace, config = trained
    expected, folder = scores(workspace), model_folder(workspace, "seed-0")
    kept = shutil.copytree(folder, tmp_path / "kept")
    for path in sorted(kept.iterdir()):
        for harm in ("flip", "cut", "gone"):
            place = folder / path.name
            if harm == "flip":
                flip(place, 0.7)
            elif harm == "cut":
                place.write_bytes(place.read_bytes()[:-4])
            else:
                place.unlink()
            with pytest.raises(UserError) as error:
                score.run(workspace, replace=True)
            said = str(error.value)
            assert "\n" not in said
            assert path.name in said or "no trained PRM" in said
            shutil.copy(path, place)
    score.run(workspace, replace=True)
    assert scores(workspace) == expected
    (folder / "prm_head.safetensors").unlink()
    with pytest.raises(UserError) as error:
        score.run(workspace, replace=True)
    follow(str(error.value), workspace.root.parent)
    assert not folder.exists()
    with pytest.raises(UserError, match="run `prm train` first"):
        score.run(workspace, replace=True)
    result = train.run(config, workspace, 5)
    assert [one.there for one in result.runs] == [False]
    score.run(workspace, replace=True)
    assert scores(workspace) == expected


def test_a_card_of_before_is_told_so(trained, tmp_path):
    workspace, _ = trained
    folder = shutil.copytree(model_folder(workspace, "seed-0"), tmp_path / "old")
    card = (folder / CARD).read_text()
    (folder / CARD).write_text(re.sub(r' "files": \{[^}]*\},\n', "", card))
    with pytest.raises(UserError, match="earlier version"):
        score.run(workspace, models={"old": folder})


@pytest.mark.parametrize("kind", ["checkpoint", "best-*"])
def test_a_flipped_byte_in_a_checkpoint_is_refused_and_the_run_starts_anew(tiny_model, make_workspace, kind):
    config = settings(tiny_model, steps=4, null_runs=0, checkpoint_every=2, validation={"every": 2, "share": 0.4})
    whole, broken = make_workspace("whole"), make_workspace("broken")
    train.run(config, whole, 5)

    def stop(run, step, *_):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.run(config, broken, 5, stop)
    folder = broken.root / "tables" / "updates" / "seed-0"
    (path,) = folder.glob(f"{kind}.safetensors")
    kept = path.read_bytes()
    for at in (0.001, 0.01, 0.5, 0.999):
        path.write_bytes(kept)
        flip(path, at)
        if kind == "checkpoint":
            with pytest.raises(UserError) as error:
                train.run(config, broken, 5)
            assert "damaged" in str(error.value)
    if kind == "checkpoint":
        path.unlink()
        train.run(config, broken, 5)
    else:
        # It is read where the best state is not the last one.
        with pytest.raises(UserError, match="best step"):
            from prm.training import checkpoint

            checkpoint.load_parameters(path, None, [])
        follow(f"delete `{path}` and `{path.with_name('checkpoint.safetensors')}` and run `prm train` again", folder)
        train.run(config, broken, 5)
    assert updates(broken) == updates(whole)
