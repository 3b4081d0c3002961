"""What rollouts and completions have in common: requests with images, and the grade of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate import graders
from curate.engines.base import Sample, Sampling
from curate.graders import KNOWN, Gradable, Words, assess, runs_on, wanted_of
from curate.models.location import fingerprint
from curate.recipe.sections import EngineConfig, JudgeConfig, RolloutConfig
from curate.seeds import digest
from curate.stages.golds import gold_of
from curate.text import prompts, steps


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
    """How much of an image the model gets; nothing where that is its own limit."""
    engine = config.engine
    pixels = _replayed(config).get("max_pixels") if engine.kind == "replay" else engine.max_pixels
    return {} if pixels is None else {"max_pixels": pixels}


def _model(config: RolloutConfig) -> str:
    return str(_replayed(config)["model"]) if config.engine.kind == "replay" else model_of(config.engine)


def model_of(engine: EngineConfig) -> str:
    """Which weights, wherever they lie: a folder counts by its content, so that moving it changes nothing."""
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
        "answers": graders.VERSION,
        **config.answer_words.settings(),
        "max_steps": config.max_steps,
        "min_step_characters": config.min_step_characters,
        **_sight(config),
    }


def sampling(config: RolloutConfig | JudgeConfig, max_tokens: int) -> Sampling:
    """The section's sampling with this many new tokens."""
    given = config.sampling
    return Sampling(given.temperature, given.top_p, given.top_k, max_tokens)


@dataclass(frozen=True)
class Graded:
    """The columns of a rollout or a completion that grading fills."""

    answer: str | None
    outcome: bool | None
    outcome_rule: str
    gold: str | None


def graded(sample: Sample, whole: str, problem: Gradable, words: Words = KNOWN) -> Graded:
    """Grade a whole chain that ended with this sample.

    A sample that the engine failed on is missing data: outcome null. A chain cut off at the token limit, or one that
    repeats itself, has no answer and counts as wrong, under its own rule.
    """
    gold = gold_of(problem)
    if sample.finish == "error":
        rule = f"engine-error: {sample.error or 'unknown'}"
        return Graded(None, None, rule, gold)
    # A text that states its answer and runs on into another question had come to its end before it was cut.
    if sample.finish != "stop" and not runs_on(whole, wanted_of(problem, words)):
        return Graded(None, False, f"finish-{sample.finish}", gold)
    found = assess(whole, problem, words)
    return Graded(found.answer, found.outcome, found.rule, gold)
