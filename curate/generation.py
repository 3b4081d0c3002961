"""What rollouts and completions have in common: requests with pictures, and the grade of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from curate import prompts, steps
from curate.active import bringing_chains, dropped
from curate.answers import extract, grade
from curate.engines.base import Image, Sample, Sampling
from curate.engines.models import fingerprint
from curate.errors import UserError
from curate.schema import IMAGES, PROBLEMS, Row
from curate.sections import RolloutConfig
from curate.seeds import digest
from curate.store import Workspace, among

# A picture is small; a few thousand of them are what the requests in flight can need.
_CACHED_IMAGES = 4096


def policy_digest(config: RolloutConfig) -> str:
    """What a sample was drawn from: model, sampling and prompt. Rows of different policies are never pooled."""
    template = prompts.template(config.prompt)
    return digest(
        _model(config),
        config.sampling.model_dump(),
        [template.name, template.version, template.text],
        *_sight(config).items(),
        length=16,
    )


def _replayed(config: RolloutConfig) -> dict[str, Any]:
    """Settings of the workspace that is replayed: what is replayed was drawn by the model that was asked then."""
    from curate.engines import replay

    template = prompts.template(config.prompt)
    return replay.check(config.engine.model, f"{template.name}/{template.version}", config.sampling.model_dump())


def _sight(config: RolloutConfig) -> dict[str, Any]:
    """How much of a picture the model gets; nothing where that is its own limit."""
    engine = config.engine
    pixels = _replayed(config).get("max_pixels") if engine.kind == "replay" else engine.max_pixels
    return {} if pixels is None else {"max_pixels": pixels}


def _model(config: RolloutConfig) -> str:
    """Which weights, wherever they lie: a folder counts by its content, so that moving it changes nothing."""
    engine = config.engine
    if engine.kind == "replay":
        return str(_replayed(config)["model"])
    named = "folder" if Path(engine.model).is_dir() else engine.model
    return f"{named}@{fingerprint(engine.model, engine.revision)}"


def settings(config: RolloutConfig) -> dict[str, Any]:
    """The part of the configuration that decides what the rows are; its digest guards the table.

    Not in it: which problems and how many samples (more may be added), how many requests at once, where the engine
    runs.
    """
    template = prompts.template(config.prompt)
    return {
        "model": _model(config),
        "sampling": config.sampling.model_dump(),
        "prompt": f"{template.name}/{template.version}",
        "steps": steps.VERSION,
        "max_steps": config.max_steps,
        "min_step_characters": config.min_step_characters,
        **_sight(config),
    }


def sampling(config: RolloutConfig, max_tokens: int) -> Sampling:
    """The recipe's sampling with this many new tokens."""
    given = config.sampling
    return Sampling(given.temperature, given.top_p, given.top_k, max_tokens)


def problems(workspace: Workspace, roles: Sequence[str]) -> list[Row]:
    """Problems of these roles that are to be rolled out; UserError when there is none.

    Not dropped ones, and not those that came with chains of thought.
    """
    out, settled = dropped(workspace), bringing_chains(workspace)
    rows = workspace.read(PROBLEMS, where=among("role", roles)).to_pylist()
    kept = [row for row in rows if row["problem_id"] not in out and row["source"] not in settled]
    if not kept:
        cure = "all were dropped or came with chains of thought" if rows else "run `curate ingest` first"
        raise UserError(f"The workspace has no problems of role {', '.join(roles)} to roll out; {cure}.")
    return kept


class Pictures:
    """Pictures by content hash, read from the workspace when asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._load = lru_cache(_CACHED_IMAGES)(self._read)

    def _read(self, image_hash: str) -> bytes:
        found = self._workspace.read(IMAGES, ["bytes"], where=pc.field("image_hash") == image_hash)
        if not found.num_rows:
            raise UserError(f"Image {image_hash} is not in the workspace; ingest its source again.")
        return bytes(found["bytes"][0].as_py())

    def preload(self, hashes: Sequence[str]) -> None:
        """Nothing to gain for a few; for many, one pass over the table instead of one query each."""
        if len(hashes) <= 8:
            return
        wanted = set(hashes)
        kept = dict[str, bytes]()
        for row in self._workspace.read(IMAGES, ["image_hash", "bytes"]).to_pylist():
            if row["image_hash"] in wanted and len(kept) < _CACHED_IMAGES:
                kept[row["image_hash"]] = row["bytes"]
        direct = self._read
        self._load = lru_cache(_CACHED_IMAGES)(lambda key: kept.get(key) or direct(key))

    def of(self, problem: Mapping[str, Any]) -> list[Image]:
        """The pictures of a problem, in order."""
        return [Image(key, self._load(key)) for key in problem["image_hashes"]]


def graded(sample: Sample, whole: str, problem: Mapping[str, Any]) -> dict[str, Any]:
    """`answer`, `outcome` and `outcome_rule` of a whole chain that ended with this sample.

    A sample that the engine failed on is missing data: outcome null. A chain cut off at the token limit, or one that
    repeats itself, has no answer and counts as wrong, under its own rule.
    """
    if sample.finish == "error":
        return {"answer": None, "outcome": None, "outcome_rule": f"engine-error: {sample.error or 'unknown'}"}
    if sample.finish != "stop":
        return {"answer": None, "outcome": False, "outcome_rule": f"finish-{sample.finish}"}
    answer = extract(whole)
    verdict = grade(
        answer,
        problem["answer"],
        problem["answer_type"],
        problem["choices"],
        problem["accepted"],
        problem["tolerance"],
    )
    return {"answer": answer, "outcome": verdict.outcome, "outcome_rule": verdict.rule}
