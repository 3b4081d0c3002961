"""What helps where a file of a workspace is damaged: which to delete, and which command makes its rows anew."""

from __future__ import annotations

from pathlib import Path

from curate.tables.schema import TABLES

# What is pending is decided by keys in these, so that one file of them can be made anew by itself.
_PENDING = {
    "rollouts": "curate rollout",
    "completions": "curate label",
    "judgements": "curate judge",
    "step_scores": "prm score",
}
# These are written afresh by a command, whole.
_WHOLE = {
    "examples": "curate shard",
    "step_labels": "curate label",
    "updates": "prm train --replace",
    "rollout_weights": "prm train --replace",
    "validations": "prm train --replace",
}
# What was made from the rows of a shard and lies in the same shard: it must not meet others.
_FOLLOWING = {"rollouts": ("completions", "judgements"), "completions": (), "judgements": (), "step_scores": ()}
_MAIN = "main"


def without(path: Path) -> str:
    """For a file that does not belong where it is."""
    return f"delete `{path}` and `{path.with_suffix('.done').name}` beside it"


def command(folder: Path) -> str:
    """What makes the rows of this partition anew, in words that end in a command."""
    table, partition = folder.parent.name, folder.name
    if table not in TABLES:
        return f"delete `{folder}` and run the stage of an installed package that writes {table} again"
    if table == "drops":
        return f"run `curate {partition}` again"
    if table in _PENDING and partition == _MAIN:
        return f"run `{_PENDING[table]} --replace`"
    if table == "step_scores":
        return "run `prm score --replace`"
    if table in _WHOLE and (table != "step_labels" or partition == _MAIN):
        return f"run `{_WHOLE[table]}`" + ("" if "--replace" in _WHOLE[table] else " again")
    if table == "rejects" and partition.startswith("_"):
        return f"run the stage {partition[1:].partition('-')[0]} again"
    if (folder.parent.parent / "problems" / partition).is_dir():
        return f"run `curate ingest --replace {partition}`"
    return f"run `curate import-rollouts --replace` on the file of the import {partition}"


def again(folder: Path) -> str:
    """What goes on from the rows of this partition, in words that end in a command."""
    table = folder.parent.name
    if table == "problems":
        return "run `curate ingest` again"
    return f"run `{_PENDING[table]}` again"


def anew(path: Path) -> str:
    """For a damaged file of rows: what to delete, where that is needed, and what to run."""
    folder = path.parent
    table = folder.parent.name
    if table not in _PENDING or (folder.name != _MAIN and table != "step_scores"):
        return f"restore it from a copy, or {command(folder)}"
    gone, run = [f"`{path.with_suffix('.done')}`"], [f"`{_PENDING[table]}`"]
    shard = path.name[: len("part-00000")]
    for other in _FOLLOWING[table]:
        if any((folder.parent.parent / other / _MAIN).glob(f"{shard}-*.done")):
            gone.append(f"`{folder.parent.parent / other / _MAIN / shard}-*.done`")
            run.append(f"`{_PENDING[other]}`")
    return f"restore it from a copy, or delete {' and '.join(gone)} and run {', then '.join(run)} again"
