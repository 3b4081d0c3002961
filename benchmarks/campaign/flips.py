"""One changed byte in each kind of file that a workspace keeps: noticed in a sentence whose cure works, or harmless.

The command that reads such files runs on the damaged workspace. Where it is refused its cure is followed to the letter,
and everything must be as if nothing had happened; where it is not, everything must be so already.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import bed
import cures
import fork
import kills
from bed import WORKSPACE, Case

# Damage of one file may show in several places, one after the other.
_ROUNDS = 8
# What `curate rollout` reads.
_TABLES = ("w/tables/problems/", "w/tables/images/", "w/workspace.json")


@dataclass(frozen=True)
class Kind:
    """A kind of file: where they lie, before which command, and whether that must be killed to leave one."""

    name: str
    pattern: str
    case: str = "run"
    words: str = "curate run recipe.yaml"
    killed: bool = False


KINDS = (
    *(
        Kind(f"rows of {table}", f"w/tables/{table}/*/part-*.parquet")
        for table in ("problems", "images", "rollouts", "completions", "step_labels", "judgements", "examples",
                      "updates", "validations", "step_scores")
    ),
    Kind("markers", "w/tables/*/*/part-*.done"),
    Kind("records", "w/tables/*/*/lineage.json"),
    Kind("the manifest", "w/workspace.json"),
    Kind("the catalogue", "w/catalog.duckdb"),
    Kind("the lock", "w/writer.lock"),
    Kind("recipes of runs", "w/runs/*/recipe.yaml", words="prm report w"),
    Kind("files of a PRM", "w/models/seed-0/*", words="prm score recipe.yaml --replace"),
    Kind("weights of a PRM", "w/models/seed-0/*.safetensors", words="prm score recipe.yaml --replace"),
    Kind("files of an exported PRM", "model/*", words="prm eval calibration --model model"),
    Kind("journals", "w/tables/*/main/*.journal", "rollout", "curate rollout recipe.yaml", killed=True),
    Kind("checkpoints", "w/tables/updates/*/*.safetensors", "train", "prm train recipe.yaml", killed=True),
)  # fmt: skip


def run(
    cases: Sequence[Case], folder: Path, count: int, seconds: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """So many flips in each kind of file at most, in so much time; what became of them."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    by_name = {case.name: case for case in cases}
    kinds = [kind for kind in map(partial(_here, by_name), KINDS) if kind.case in by_name]
    done: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(count * len(kinds)):
        if time.monotonic() > end:
            break
        kind = kinds[number % len(kinds)]
        became, wrong = trial(kind, by_name[kind.case], folder, rng)
        done[kind.name] += became != "no file"
        done[became] += 1
        if wrong:
            faults.append(f"{kind.name}: {wrong}")
            say(f"FAULT {faults[-1]}")
        if number % 20 == 19:
            say(f"flips: {number + 1} done, {len(faults)} faults")
    return {"part": "flips", **dict(sorted(done.items())), "faults": faults}


def _here(cases: Mapping[str, Case], kind: Kind) -> Kind:
    """The kind as a bed without the whole chain has it: by the last command of `curate` that is there."""
    if kind.case in cases or kind.words != Kind.words:
        return kind
    if "shard" in cases:
        return replace(kind, case="shard", words="curate shard recipe.yaml")
    if kind.pattern.startswith(_TABLES):
        return replace(kind, case="rollout", words="curate rollout recipe.yaml")
    return kind


def trial(kind: Kind, case: Case, folder: Path, rng: random.Random) -> tuple[str, str]:
    """What became of one changed byte, in a word; and what was wrong with that."""
    live = kills.fresh(case, folder)
    files = _left(kind, case, live, folder, rng) if kind.killed else _files(kind, live)
    if not files:
        return "no file", ""
    path = rng.choice(files)
    place = rng.randrange(path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    became, wrong = _mended(kind, case, live, folder)
    return became, wrong and f"{path.relative_to(live)}, byte {place} of {len(data)}: {wrong}"


def _files(kind: Kind, live: Path) -> list[Path]:
    return [path for path in sorted(live.glob(kind.pattern)) if path.is_file() and path.stat().st_size]


def _left(kind: Kind, case: Case, live: Path, folder: Path, rng: random.Random) -> list[Path]:
    """Files that a killed command leaves."""
    running = fork.start(case.words, live, folder / "first")
    end = time.monotonic() + 4 * case.seconds + 5
    while not (found := _files(kind, live)) and running.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    running.wait(rng.uniform(0, 0.3 * case.seconds))
    running.end()
    return _files(kind, live) if found else []


def _mended(kind: Kind, case: Case, live: Path, folder: Path) -> tuple[str, str]:
    words = [*kind.words.split(), *([] if " w" in kind.words else ["-w", WORKSPACE])]
    refused: list[str] = []
    for _ in range(_ROUNDS):
        said = _sentence(words, live, folder) or _unreadable(live)
        if not said:
            return ("refused" if refused else "harmless"), _different(kind, case, live, refused)
        if "\n" in said:
            return "no sentence", said[-900:]
        refused.append(said)
        for line in cures.follow(said, live):
            # What that finds damaged, too, is told in the next round.
            _sentence(line, live, folder)
    return "refused", f"the cures did not help: {refused[0]} ... {refused[-1]}"


def _sentence(words: Sequence[str], live: Path, folder: Path) -> str:
    """What a command was refused with; nothing where it did its work, several lines where it crashed."""
    running = fork.start(words, live, folder / "said")
    if running.wait() is None:
        running.end()
        return "it hangs\n"
    if running.code == 0:
        return ""
    lines = [line for line in running.said().splitlines() if line.startswith(("Error: ", "Failed: "))]
    ended = running.code in (1, 2) and len(lines) == 1 and "Traceback" not in running.said()
    return lines[0] if ended else f"code {running.code}\n{running.said()[-900:]}"


def _unreadable(live: Path) -> str:
    """What reading every row is refused with."""
    try:
        fork.call(bed.state, live)
    except fork.Failed as error:
        return f"Error: {error.sentence}" if error.kind == "UserError" else f"\n{error}"
    return ""


def _different(kind: Kind, case: Case, live: Path, refused: Sequence[str]) -> str:
    found = bed.differences(fork.call(bed.state, live), case.after)
    # An export is read by others, and is made anew when it is damaged.
    found = [name for name in found if not name.startswith(("model/", "out/"))]
    return f"other than undisturbed: {found[:6]} after {list(refused)}" if found else ""
