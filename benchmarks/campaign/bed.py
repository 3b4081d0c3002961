"""The place of the campaign: a workspace before each command that writes, and what the command makes of it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fork
import writes
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKSPACE = "w"
# Of a ledger, what differs between a run in one piece and one in several.
_PASSING = frozenset({"skipped"})
# Source -> (role, domain, problems).
_SOURCES = {"bars": ("train", "bars", 5), "table": ("train", "table", 5), "meta": ("meta", "bars", 5),
            "test": ("test", "table", 4)}  # fmt: skip


def _source(name: str, role: str, domain: str) -> dict[str, Any]:
    columns = {"id": "id", "question": "question", "answer": "answer", "image": "image"}
    return {
        "kind": "files", "name": name, "path": f"{name}.jsonl", "role": role, "domain": domain, "columns": columns,
        "answer_type": "number",
    }  # fmt: skip


RECIPE: dict[str, Any] = {
    "name": "campaign",
    "seed": 5,
    "ingest": {"sources": [_source(name, role, domain) for name, (role, domain, _) in _SOURCES.items()]},
    "dedup": {},
    "decontaminate": {},
    "rollout": {
        "engine": {"kind": "simulated", "model": "world", "in_flight": 8, "args": {"latency": 0.002}},
        "samples": 4,
        "prompt": "short-five",
    },
    "label": {"mode": "exact", "completions": 2},
    "judge": {
        "engine": {"kind": "simulated", "model": "judge", "in_flight": 8, "args": {"latency": 0.002}},
        "limit": 8,
    },
    "shard": {},
    "train": {
        "model": "backbone",
        "seeds": 1,
        "null_runs": 1,
        "steps": 4,
        "rows_per_domain": 2,
        "max_length": 600,
        "checkpoint_every": 1,
        "upper": {"unroll": 2, "warmup": 1, "lr": 0.1, "meta_rows": 2},
        "validation": {"every": 2, "share": 0.3},
        "device": "cpu",
    },
    "score": {"roles": ["test", "meta"]},
    "select": {"sizes": [1, 2, 4]},
    "report": {"chains": 4, "browse": 4},
}
# Every command that writes, in the order of the chain; the workspace before each is what the one before left.
LINES: list[tuple[str, str]] = [
    ("ingest", "curate ingest recipe.yaml"),
    ("ingest-replace", "curate ingest recipe.yaml --replace bars"),
    ("dedup", "curate dedup recipe.yaml"),
    ("decontaminate", "curate decontaminate recipe.yaml"),
    ("plan-pilot", "curate plan recipe.yaml --pilot 2"),
    ("rollout", "curate rollout recipe.yaml"),
    ("rollout-replace", "curate rollout recipe.yaml --replace"),
    ("label", "curate label recipe.yaml"),
    ("relabel", "curate relabel recipe.yaml --mode hard --completions 1"),
    ("label-again", "curate label recipe.yaml"),
    ("judge", "curate judge recipe.yaml"),
    ("import-rollouts", "curate import-rollouts given.jsonl --source test --id id --response text -r recipe.yaml"),
    ("remove-import", "curate remove-import given"),
    ("shard", "curate shard recipe.yaml"),
    ("train", "prm train recipe.yaml"),
    ("train-parallel", "prm train recipe.yaml --parallel 2 --replace"),
    ("score", "prm score recipe.yaml"),
    ("select", "prm select recipe.yaml"),
    ("report", "prm report recipe.yaml"),
    ("eval", "prm eval calibration"),
    ("export", "curate export datasets out --replace"),
    ("prm-export", "prm export seed-0 model --replace"),
    ("run", "curate run recipe.yaml"),
]
# Those of them that need a model and torch.
TORCH = frozenset(name for name, line in LINES if line.startswith("prm")) | {"run"}


@dataclass
class Case:
    """A command with what was there before it, what is there after it, its seconds and its writes, undisturbed."""

    name: str
    words: list[str]
    before: Path
    after: dict[str, str]
    seconds: float
    writes: int


def build(folder: Path, names: set[str] | None = None, say: Callable[[str], None] = print) -> list[Case]:
    """Make the bed in an empty folder; `names` are the cases that are wanted (the chain runs whole as far as them)."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name, _ in LINES if names is None or name in names]
    live = folder / "live"
    live.mkdir()
    _inputs(live, model=bool(TORCH & set(wanted)))
    cases = []
    for number, (name, line) in enumerate(LINES):
        if name not in wanted[-1:] and not set(wanted) & {later for later, _ in LINES[number:]}:
            break
        if name == "train-parallel" and names is not None and name not in names:
            # Slow, and what comes later does not need it.
            continue
        words = [*line.split(), "-w", WORKSPACE]
        before = folder / "before" / f"{number:02d}"
        shutil.copytree(live, before)
        counted = folder / "writes"
        begin = time.monotonic()
        running = fork.start(words, live, folder / "said", partial(_count, live, counted))
        if running.wait() != 0:
            raise RuntimeError(f"`{line}` failed undisturbed: {running.said()[-3000:]}")
        seconds = time.monotonic() - begin
        if (unlocked := counted.with_suffix(".unlocked")).exists():
            raise RuntimeError(f"`{line}` writes to the workspace without its lock: {unlocked.read_text()[:900]}")
        case = Case(name, words, before, fork.call(state, live), seconds, int(counted.read_text()))
        if name in wanted:
            cases.append(case)
        say(f"bed: {name}: {seconds:.2f} s, {case.writes} writes")
    return cases


def _count(root: Path, into: Path) -> None:
    """Note how many writes there are, and every write to the workspace without its lock. These files lie elsewhere."""
    from curate.tables import lock

    place = root / WORKSPACE

    def act(number: int, what: str) -> None:
        into.write_text(str(number))
        if f"/{WORKSPACE}/" in what and not what.endswith(lock.FILE) and not lock.holds(place):
            with into.with_suffix(".unlocked").open("a") as file:
                file.write(f"{what}\n")

    writes.watch(root, act)


def _inputs(folder: Path, model: bool) -> None:
    if model:
        fork.call(_model, str(folder / "backbone"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    fork.call(_data, str(folder))
    rows = [
        {"id": f"test-{number}", "text": f"Step 1: I look.\nStep 2: I count.\nAnswer: {number}"} for number in range(4)
    ]
    (folder / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _data(folder: str) -> None:
    """Files of problems with images; a workspace with two shards, for fewer files."""
    from PIL import Image

    from curate.tables import manifests
    from curate.tables.store import VERSION

    for name, (_, _, count) in _SOURCES.items():
        rows = []
        for number in range(count):
            identity = f"{name}-{number}"
            draw = random.Random(identity)
            gold = draw.randrange(90)
            # Unlike one another, so that none is dropped for being like another.
            image = Image.frombytes("RGB", (7, 7), draw.randbytes(147)).resize((56, 56))
            image.save(f"{folder}/{identity}.png")
            words = " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(12))
            question = f"How many {words}? [gold={gold}]"
            rows.append({"id": identity, "question": question, "answer": str(gold), "image": f"{identity}.png"})
        Path(folder, f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = Path(folder, WORKSPACE)
    (root / "tables").mkdir(parents=True)
    (root / "workspace.json").write_text(manifests.text(VERSION, 2, "campaign"))


def _model(folder: str) -> None:
    """A random Qwen2-VL with two layers."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    sys.path.insert(0, str(ROOT / "data" / "demo"))
    from making import network

    tokenizer = network.make_tokenizer(1, 640)
    config = network.make_config(tokenizer, hidden=64, layers=2)
    torch.manual_seed(3)
    model = Qwen2VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    network.make_processor(tokenizer).save_pretrained(folder)


def state(folder: Path) -> dict[str, str]:
    """Digests of everything that matters in a folder with a workspace: rows, accounts, models, figures, exports."""
    from curate.tables import lineage
    from curate.tables.schema import TABLES
    from curate.tables.store import Store

    place = Store.open(folder / WORKSPACE, create=False)
    found: dict[str, str] = {}
    for name, table in TABLES.items():
        for partition in place.partitions(table):
            rows = partition.read().to_pylist()
            keys = [tuple(row[column] for column in table.key) for row in rows]
            if len(set(keys)) < len(keys):
                raise AssertionError(f"{name}/{partition.folder.name}: a row is there twice")
            if partition.journals():
                rows += [row for shard in partition.journals() for row in partition.journal(shard).rows()]
            rows.sort(key=lambda row: tuple(str(row[column]) for column in table.key))
            if rows:
                found[f"{name}/{partition.folder.name}"] = _digest(repr(rows).encode())
            record = lineage.read(partition)
            if record is not None:
                kept = {key: record[key] for key in ("stage", "config", "inputs", "complete")}
                book = {key: value for key, value in (record["ledger"] or {}).items() if key not in _PASSING}
                found[f"{name}/{partition.folder.name} record"] = _digest(repr([kept, book]).encode())
    for path in sorted([*(folder / WORKSPACE / "models").rglob("*"), *(folder / "model").rglob("*")]):
        if path.is_file() and path.name not in ("README.md", "prm.json"):
            found[str(path.relative_to(folder))] = _digest(path.read_bytes())
        if path.name == "prm.json":
            # It names the folder that the backbone lay in, and how many processes trained.
            card = json.loads(path.read_text())
            card |= {"config": card["config"] | {"model": None, "parallel": None}, "seal": None}
            found[str(path.relative_to(folder))] = _digest(repr(card).encode())
    for path in sorted((folder / "out").rglob("*.parquet")):
        found[str(path.relative_to(folder))] = _digest(path.read_bytes())
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What differs, by name."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
