"""Hostile recipes, prompts, images, archives, requests and answers of servers: a sentence, or a reject with a reason.

Each is met by the command that reads it, in a workspace of its own; it may take no longer and no more memory than a
harmless one by far. A server that scores must answer each request and go on scoring. After hostile answers of a server
the same command again, with a server that is well, must bring the rows of an undisturbed run.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bed
import faults
import fork
import generators
import kills
import servers
import yaml
from bed import WORKSPACE, Case

KINDS = ("recipe", "prompt", "image", "archive", "answer", "request")
# What a command may take for one of these: seconds, and memory besides what it began with.
_SECONDS = 60.0
_MEMORY = 3 * 2**30


def run(
    cases: Sequence[Case], folder: Path, count: int, seconds: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """So many of all kinds together at most, in so much time; what was done, and what was not as it should be."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    by_name = {case.name: case for case in cases}
    kinds = [
        kind
        for kind in KINDS
        if {"prompt": "rollout", "answer": "rollout", "request": "score"}.get(kind, "ingest") in by_name
    ]
    done: Counter[str] = Counter()
    wrong: list[str] = []
    with servers.Scoring(by_name.get("score"), folder) as scoring:
        for number in range(count):
            if time.monotonic() > end:
                break
            kind = kinds[number % len(kinds)]
            draw = random.Random(rng.random())
            ended, fault = _trial(kind, by_name, folder, draw, scoring)
            done[kind] += 1
            done[f"ended: {ended}"] += 1
            if fault:
                wrong.append(f"{kind}: {fault}")
                say(f"FAULT {wrong[-1]}")
            if number % 20 == 19:
                say(f"hostile: {number + 1} done, {len(wrong)} faults")
    return {"part": "hostile", **dict(sorted(done.items())), "faults": wrong}


def _trial(
    kind: str, cases: dict[str, Case], folder: Path, draw: random.Random, scoring: servers.Scoring
) -> tuple[str, str]:
    if kind == "request":
        return scoring.meets(generators.request(draw))
    live = kills.fresh(cases["rollout" if kind in ("prompt", "answer") else "ingest"], folder)
    if kind == "answer":
        return _answers(live, folder, draw)
    words = {"prompt": "curate rollout recipe.yaml"}.get(kind, "curate ingest recipe.yaml").split()
    if kind == "recipe":
        words = ["curate", draw.choice(["run", "ingest", "plan", "rollout"]), "recipe.yaml"]
        shutil.rmtree(live / WORKSPACE)
        (live / "recipe.yaml").write_bytes(generators.recipe(draw, bed.RECIPE))
    elif kind == "prompt":
        (live / "own.j2").write_bytes(generators.prompt(draw))
        words += ["--set", "rollout.prompt=own.j2"]
    elif kind == "image":
        for path in live.glob("bars-*.png"):
            path.write_bytes(generators.image(draw))
    else:
        names = [path.name for path in live.glob("bars-*.png")]
        (live / "images.zip").write_bytes(generators.archive(draw, names, (live / names[0]).read_bytes()))
        words += ["--set", "ingest.sources.0.root=images.zip"]
    return _met([*words, "-w", WORKSPACE], live, folder)


def _met(words: list[str], live: Path, folder: Path) -> tuple[str, str]:
    running = fork.start(words, live, folder / "said", _bounded)
    if running.wait(_SECONDS) is None:
        running.end()
        return "hung", f"it takes longer than {_SECONDS:g} s: {_kept(live, folder)}"
    ended, fault = faults.judged(running.code, running.said(), "")
    if not fault and len(max(running.said().splitlines(), key=len, default="")) > 2000:
        fault = "a sentence of more than 2,000 letters"
    return ended, fault and f"{fault} ({_kept(live, folder)})"


def _kept(live: Path, folder: Path) -> str:
    """Where a copy of the folder lies, to be looked at."""
    place = folder.parents[1] / f"hostile-{time.time_ns()}"
    shutil.copytree(live, place, ignore=shutil.ignore_patterns("backbone"))
    return str(place)


def _last(folder: Path) -> str:
    return (folder / "said").read_text(errors="replace")[-300:]


def _bounded() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, held + _MEMORY))


def _answers(live: Path, folder: Path, draw: random.Random) -> tuple[str, str]:
    """A rollout whose server answers hostilely now and then; then again with one that is well."""
    recipe = json.loads(json.dumps(bed.RECIPE))
    recipe["rollout"]["error_budget"] = 1.0
    place = live / "server"
    # A pilot's, of another engine.
    shutil.rmtree(live / WORKSPACE / "tables" / "rollouts", ignore_errors=True)
    with servers.Answering(place, draw.random()) as address:
        # Three failures in a row set a server aside, for half a minute if nothing is said.
        args = {"retries": 0, "stream": False, "timeout": 20, "rest": 1}
        recipe["rollout"]["engine"] = {"kind": "server", "model": "m", "urls": [address], "in_flight": 4, "args": args}
        (live / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        words = ["curate", "rollout", "recipe.yaml", "-w", WORKSPACE]
        whole = live.with_name("whole")
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(live, whole)
        (place / "share").write_text("0.4")
        ended, fault = _met(words, live, folder)
        (place / "share").write_text("0")
        for each in (live, whole):
            if not fault:
                again, fault = _met(words, each, folder)
                fault = fault or ("" if again == "done" else f"with a server that is well: {_last(folder)}")
        if not fault:
            different = bed.differences(fork.call(_rollouts, str(live)), fork.call(_rollouts, str(whole)))
            fault = f"other rollouts than of an undisturbed run: {different[:4]}" if different else ""
    return ended, fault


def _rollouts(folder: str) -> dict[str, str]:
    from curate.tables.schema import ROLLOUTS
    from curate.tables.store import Store

    rows = Store.open(Path(folder, WORKSPACE), create=False).read(ROLLOUTS).to_pylist()
    # A figure beside the text that cannot be right is left out.
    return {row["rollout_id"]: repr([row["text"], row["answer"], row["outcome"]]) for row in rows}
