"""A copy of a published dataset in its own shape, and what its recipe must make of each row."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import yaml
from PIL import Image as Pillow

from curate import pipeline
from curate.runtime.reporter import Silent
from curate.tables.schema import IMAGES, PROBLEMS, REJECTS
from curate.tables.store import Store


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (40 + shade, 30), (shade, 0, 255 - shade)).save(buffer, "JPEG")
    return buffer.getvalue()


IMAGE_FILES = [jpeg(shade) for shade in range(0, 240, 10)]


def image(number: int) -> dict:
    return {"bytes": IMAGE_FILES[number], "path": f"{number}.jpg"}


def want(question, answer, kind, choices=(), accepted=(), tolerance=None, images=1):
    """What a row must become."""
    return (question, answer, kind, tuple(choices), tuple(accepted), tolerance, images)


@dataclass
class Copy:
    """A dataset as it is published: rows, which columns are images, and what each problem or reject must be."""

    rows: list[dict]
    expected: list
    images: tuple[str, ...] = ("image",)
    lists: tuple[str, ...] = ()
    split: str = "train"
    config: str | None = None
    named: dict = field(default_factory=dict)


def publish(folder, copy: Copy) -> None:
    """Parquet with Image structs, and the card that names the configuration and its split, as on the hub."""
    folder.mkdir(parents=True)
    data = datasets.Dataset.from_list(copy.rows)
    for name in copy.images:
        data = data.cast_column(name, datasets.Image())
    for name in copy.lists:
        data = data.cast_column(name, datasets.List(datasets.Image()))
    data.to_parquet(folder / "data" / f"{copy.split}-00000-of-00001.parquet")
    one = {"config_name": copy.config or "default", "data_files": [{"split": copy.split, "path": "data/*.parquet"}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [one]})}---\n")


def check(copy: Copy, path: Path, place: Path) -> None:
    """A recipe of one source, on the copy of its dataset, row by row; `place` is an empty folder."""
    source = pipeline.load(path).section("ingest").sources[0]
    assert (source.split, source.config) == (copy.split, copy.config)
    publish(place / "data" / source.dataset, copy)
    recipe = pipeline.load(path, (), place / "data")
    workspace = Store.open(place / "w")
    ledger = pipeline.run(recipe, workspace, Silent())["ingest"]
    assert ledger.adds_up()
    assert ledger.taken == len(copy.expected)
    found = sorted(workspace.read(PROBLEMS).to_pylist(), key=lambda row: row["question"])
    made = [
        (p["question"], p["answer"], p["answer_type"], tuple(p["choices"]), tuple(p["accepted"]),
         p["tolerance"], len(p["image_hashes"]))
        for p in found
    ]  # fmt: skip
    wanted = sorted((row for row in copy.expected if not isinstance(row, str)), key=lambda row: row[0])
    assert made == wanted
    reasons = sorted(row["reason"] for row in workspace.read(REJECTS).to_pylist())
    assert reasons == sorted(row for row in copy.expected if isinstance(row, str))
    assert {(p["licence"], p["revision"]) for p in found} == {(source.licence, source.revision)}
    assert {p["domain"] for p in found} == {source.domain or path.stem}
    # Byte for byte.
    assert set(workspace.read(IMAGES)["bytes"].to_pylist()) <= set(IMAGE_FILES)
