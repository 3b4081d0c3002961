"""Images per second of `curate ingest`, beside `datasets` doing the same work and the floor of reading and hashing.

python benchmarks/ingest.py [--rows 20000] [--keep FOLDER]

The same work: each JPEG is read, decoded, measured, hashed by content and by sight, and its bytes go to Parquet. Each
part runs in a process of its own, on the same files, twice in turn; the better time counts. `datasets` gets as many
processes as there are cores. Memory is the peak of a part's process tree by `VmHWM`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from memory import run
from PIL import Image, ImageDraw

SIZES = ((224, 224), (320, 240), (640, 480), (800, 600), (1024, 768))
CORES = os.cpu_count() or 1


def draw(task: tuple[Path, int]) -> None:
    """Every other image a chart (flat bars, lines, words), the others smooth with some noise, as photographs are."""
    folder, number = task
    rng = np.random.default_rng(number)
    width, height = SIZES[number // 2 % len(SIZES)]
    if number % 2:
        image = Image.new("RGB", (width, height), "white")
        pen = ImageDraw.Draw(image)
        for bar in range(8):
            left, top = (bar + 1) * width // 10, int(rng.integers(height // 10, height - 20))
            colour = tuple(int(value) for value in rng.integers(0, 255, 3))
            pen.rectangle((left, top, left + width // 14, height - 12), fill=colour)
            pen.text((left, height - 11), str(int(rng.integers(1000))), fill="black")
            pen.line((0, top, width, top), fill="grey")
    else:
        coarse = rng.integers(0, 255, (height // 32 + 1, width // 32 + 1, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth).astype(np.int16) + rng.integers(-5, 6, (height, width, 1))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image.save(folder / f"{number}.jpg", "JPEG", quality=85)


def make(folder: Path, rows: int) -> None:
    """Images and the file of problems that names them."""
    images = folder / "images"
    if (folder / "rows.jsonl").exists():
        return
    images.mkdir(parents=True)
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(draw, ((images, number) for number in range(rows)), chunksize=64))
    order = list(range(rows))
    random.Random(0).shuffle(order)
    lines = (json.dumps({"question": f"What is in image {n}?", "answer": str(n), "image": f"{n}.jpg"}) for n in order)
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def with_curate(folder: Path, rows: int, out: Path) -> None:
    """`curate ingest` as a user would run it."""
    from curate import pipeline
    from curate.runtime.reporter import Silent
    from curate.tables.store import Store

    source = {"kind": "files", "name": "b", "path": str(folder / "rows.jsonl"), "root": str(folder / "images"),
              "columns": {"image": "image"}, "limit": rows}  # fmt: skip
    recipe = out.with_suffix(".yaml")
    recipe.write_text(json.dumps({"name": "b", "ingest": {"sources": [source]}}))
    ledger = pipeline.run(pipeline.load(recipe), Store.open(out), Silent())["ingest"]
    assert ledger.out == rows, ledger.line()


def with_datasets(folder: Path, rows: int, out: Path) -> None:
    """Ingest the same rows with `map` and `to_parquet` of `datasets`."""
    import hashlib

    import datasets
    import imagehash

    datasets.disable_progress_bars()

    def facts(row: dict) -> dict:
        data = (folder / "images" / row["image"]).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            seen = imagehash.phash(image.convert("RGB"))
            return {
                "bytes": data, "image_hash": hashlib.sha256(data).hexdigest(), "perceptual_hash": str(seen),
                "width": image.width, "height": image.height, "format": image.format,
            }  # fmt: skip

    data = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(out / "c"))
    data.select(range(rows)).map(facts, num_proc=CORES, writer_batch_size=100).to_parquet(out / "out.parquet")


def floor(folder: Path, rows: int, out: Path) -> None:
    """Read and hash the bytes."""
    import hashlib

    with (folder / "rows.jsonl").open() as file:
        for _, line in zip(range(rows), file, strict=False):
            hashlib.sha256((folder / "images" / json.loads(line)["image"]).read_bytes()).hexdigest()


PARTS = {"curate": with_curate, "datasets": with_datasets, "floor": floor}


def measure(part: str, folder: Path, rows: int) -> tuple[float, int]:
    """Seconds of the part's own work, and its peak memory."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [
            sys.executable,
            __file__,
            "--part",
            part,
            "--rows",
            str(rows),
            "--keep",
            str(folder),
            "--out",
            scratch,
        ]
        text, maximum = run(command)
        return float(text.strip().splitlines()[-1]), maximum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--keep", type=Path, help="folder for the images, kept")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        begin = time.perf_counter()
        PARTS[options.part](options.keep, options.rows, options.out / "w")
        print(time.perf_counter() - begin)
        return
    folder = options.keep or Path(tempfile.mkdtemp())
    make(folder, options.rows)
    small = options.rows // 10
    _, before = measure("curate", folder, small)
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    memory: dict[str, int] = dict.fromkeys(PARTS, 0)
    for _ in range(2):
        for part in PARTS:
            seconds, maximum = measure(part, folder, options.rows)
            times[part].append(seconds)
            memory[part] = max(memory[part], maximum)
            print(f"{part}: {seconds:.1f} s, {options.rows / seconds:,.0f} images/s, {maximum / 2**20:,.0f} MB")
    best = {part: min(found) for part, found in times.items()}
    if options.keep is None:
        shutil.rmtree(folder)
    print(
        json.dumps(
            {
                "rows": options.rows,
                "images_per_second": {part: round(options.rows / seconds, 1) for part, seconds in best.items()},
                "ratio_vs_datasets": round(best["datasets"] / best["curate"], 2),
                "ratio_vs_floor": round(best["floor"] / best["curate"], 3),
                "peak_mb": {part: round(maximum / 2**20) for part, maximum in memory.items()},
                "growth_mb": round((memory["curate"] - before) / 2**20, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
