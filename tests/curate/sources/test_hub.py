"""A hub on loopback with the real clients: init and ingest by id, export with push, and what is private."""

import hashlib
import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from export_testbed import IMAGE_FILES, fill
from hub_server import TOKEN, HubServer
from PIL import Image

from curate.tables import lineage
from curate.tables.schema import IMAGES, PROBLEMS
from curate.tables.store import Store

CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: validation, path: data/validation-*}
---
Dots.
"""
# Imports of the clients cost more than the commands: one process runs several.
DRIVER = """
import json, sys
from typer.testing import CliRunner
from curate.cli.app import app
from curate.errors import UserError
told = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    error = result.exception
    told.append([result.exit_code if not isinstance(error, UserError) else 2, result.stdout, str(error or "")])
    if error is not None and not isinstance(error, (UserError, SystemExit)):
        raise error
print(json.dumps(told))
"""


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def table(first: int, count: int) -> bytes:
    numbers = range(first, first + count)
    columns = {
        "problem": [f"How many dots does image {number} show?" for number in numbers],
        "figure": [{"bytes": image(number), "path": f"{number}.png"} for number in numbers],
        "options": [["none", "one", f"{number}"] for number in numbers],
        "answer": ["C"] * count,
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        files = {
            "README.md": CARD.encode(),
            "data/train-00000-of-00002.parquet": table(0, 4),
            "data/train-00001-of-00002.parquet": table(4, 3),
            "data/validation-00000-of-00001.parquet": table(20, 2),
        }
        server.add("datasets", "them/dots", files)
        server.add("datasets", "them/secret", files, private=True)
        server.add(
            "datasets",
            "them/parts",
            {
                "sums/a.csv": b"question,answer\n1+1?,2\n",
                "README.md": b"---\nconfigs:\n"
                b"- {config_name: sums, data_files: sums/a.csv}\n- {config_name: more, data_files: sums/a.csv}\n---\n",
            },
        )
        yield server
    assert server.unknown == []


def environment(hub: HubServer, folder, token: str | None = TOKEN) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    found |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
              "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    return found | ({"HF_TOKEN": token} if token else {})


def run(hub: HubServer, folder, *commands, token: str | None = TOKEN):
    """(exit code, standard output, error) of each command."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", DRIVER, words], env=environment(hub, folder, token), cwd=folder,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_dataset_comes_in_by_its_id(hub, tmp_path):
    told = run(
        hub,
        tmp_path,
        ["init", "them/dots", "--json"],
        ["ingest", "dots.yaml", "--dry-run"],
        ["ingest", "dots.yaml", "-w", "w", "--json"],
        ["init", "them/parts"],
        ["init", "them/parts", "--config", "sums"],
        ["init", "them/secret", "--split", "train"],
        ["init", "them/nowhere"],
    )
    assert [code for code, *_ in told] == [0, 0, 0, 2, 0, 0, 2]
    sources = yaml.safe_load((tmp_path / "dots.yaml").read_text())["ingest"]["sources"]
    (repo,) = [each for key, each in hub.repos.items() if key == ("datasets", "them/dots")]
    assert [(each["split"], each["role"]) for each in sources] == [("validation", "meta"), ("train", "train")]
    for each in sources:
        assert each["revision"] == repo.commits[-1][0] and each["licence"] == "mit"
        assert each["columns"] == {"question": "problem", "answer": "answer", "choices": "options", "image": "figure"}
    assert "How many dots does image 0 show?" in told[1][1]
    assert json.loads(told[2][1])["ingest"]["out"] == 9
    workspace = Store.open(tmp_path / "w")
    problems = {row["question"]: row for row in workspace.read(PROBLEMS).to_pylist()}
    images = {row["image_hash"]: row["bytes"] for row in workspace.read(IMAGES).to_pylist()}
    for number in [*range(7), 20, 21]:
        row = problems[f"How many dots does image {number} show?"]
        assert row["role"] == ("train" if number < 7 else "meta") and row["answer_type"] == "choice"
        assert images[row["image_hashes"][0]] == image(number)
    assert "more, sums" in told[3][2] or "sums, more" in told[3][2]
    assert yaml.safe_load((tmp_path / "parts.yaml").read_text())["ingest"]["sources"][0]["config"] == "sums"
    assert "them/nowhere" in told[6][2]


def test_what_was_really_read_is_in_lineage_and_card(hub, tmp_path):
    """The recipe names a branch of a dataset that moved; the rows are of one commit of the other."""
    columns = {"question": "problem", "answer": "answer", "choices": "options", "image": "figure"}
    source = {"kind": "hub", "name": "dots", "dataset": "them/moved", "fallbacks": ["them/dots"], "revision": "main",
              "licence": "MIT", "columns": columns}  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"ingest": {"sources": [source]}}))
    (tmp_path / "said.jsonl").write_text(json.dumps({"row": "1", "text": "Many.\n\nAnswer: C"}) + "\n")
    told = run(
        hub,
        tmp_path,
        ["ingest", "r.yaml", "-w", "w"],
        ["import-rollouts", "said.jsonl", "-w", "w", "--id", "row", "--response", "text"],
        ["export", "datasets", "out", "-w", "w", "--push", "me/said", "--json"],
    )
    assert [code for code, *_ in told] == [0, 0, 0], told
    commit = hub.repos["datasets", "them/dots"].commits[-1][0]
    workspace = Store.open(tmp_path / "w")
    assert {row["revision"] for row in workspace.read(PROBLEMS).to_pylist()} == {commit}
    read = {"source": "dots", "dataset": "them/dots", "revision": commit}
    assert lineage.read(workspace.partition(PROBLEMS, "dots"))["inputs"] == read
    assert f"| dots | hub | them/dots | {commit} | MIT | 1 |" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads(told[2][1])["pushed"] == f"{hub.address}/datasets/me/said"


def test_a_private_dataset_is_not_there_without_the_login(hub, tmp_path):
    ((code, _, error),) = run(hub, tmp_path, ["init", "them/secret"], token=None)
    assert code == 2 and "them/secret" in error and "hf auth login" in error


READ_BACK = """
import datasets, hashlib, json
data = datasets.load_dataset("me/steps")
data = data.cast_column("images", datasets.List(datasets.Image(decode=False)))
rows = [(split, row) for split in data for row in data[split]]
hashes = [[hashlib.sha256(each["bytes"]).hexdigest() for each in row["images"]] for _, row in rows]
print(json.dumps([{"split": split, "images": images} for (split, _), images in zip(rows, hashes)]))
"""


def test_an_export_is_pushed_and_comes_back(hub, tmp_path):
    fill(tmp_path / "w")
    push = ["export", "datasets", "out", "-w", "w", "--push", "me/steps", "--any-licence", "--json"]
    told = run(hub, tmp_path, push, [*push, "--replace", "--role", "train"], [*push, "--replace", "--public"])
    assert [code for code, *_ in told] == [0, 0, 2], told
    repo = hub.repos["datasets", "me/steps"]
    assert repo.private and len(repo.commits) == 3 and "private" in told[2][2]
    first, second = (set(files) for _, files in repo.commits[1:])
    # The second push has the training set only: what the first one brought besides is gone.
    assert any(path.startswith("data/test") for path in first) and not any(
        path.startswith("data/test") for path in second
    )
    assert "README.md" in second
    back = subprocess.run(
        [sys.executable, "-c", READ_BACK], env=environment(hub, tmp_path), capture_output=True, text=True, timeout=120
    )
    assert back.returncode == 0, back.stderr[-3000:]
    rows = json.loads(back.stdout.splitlines()[-1])
    assert len(rows) == json.loads(told[1][1])["rollouts"]["out"] and {row["split"] for row in rows} == {"train"}
    known = {hashlib.sha256(data).hexdigest() for data in IMAGE_FILES.values()}
    assert {each for row in rows for each in row["images"]} <= known and any(row["images"] for row in rows)


def test_a_push_without_a_network_is_one_sentence(hub, tmp_path):
    fill(tmp_path / "w")
    environ = environment(hub, tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    words = json.dumps([["export", "trl", "out", "-w", "w", "--push", "me/away", "--any-licence"]])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, words], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ((code, _, error),) = json.loads(done.stdout.splitlines()[-1])
    assert code == 2 and "was not pushed to me/away" in error
