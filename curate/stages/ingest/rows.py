"""A source row as rows of the tables: the problem, its images, and the rollout and step labels of a chain it brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from curate.errors import RowError
from curate.graders import GRADERS, KNOWN, Gradable, Words, assess, extract, grade, infer_type, wanted_of
from curate.images import ImageFacts
from curate.recipe.sections import IngestConfig
from curate.recipe.source_sections import DreamPrmSource, FilesSource, HubSource, PackageSource, SyntheticSource
from curate.seeds import digest
from curate.sources.base import GivenChain, SourceRow
from curate.sources.fields import solutions
from curate.stages import monte_carlo
from curate.stages.golds import gold_of
from curate.stages.ingest.inspectors import Found, look
from curate.tables.rows import ImageRow, ProblemRow, RejectRow, RolloutRow, StepLabelRow
from curate.tables.schema import GIVEN

AnySource = SyntheticSource | FilesSource | HubSource | DreamPrmSource | PackageSource


@dataclass(frozen=True)
class InspectedImage:
    """An image of a row, inspected."""

    image_hash: str
    data: bytes
    facts: ImageFacts


def image(data: bytes, found: Found) -> InspectedImage | RowError:
    """An image with what its inspection found."""
    return found if isinstance(found, RowError) else InspectedImage(found[0], data, found[1])


def looked(row: SourceRow, config: IngestConfig) -> list[InspectedImage | RowError]:
    """All images of a row, inspected here."""
    limits = (config.max_pixels, config.max_image_bytes)
    return [image(data, look(data, *limits)) for data in row.images]


def problem_of(
    row: SourceRow, source: AnySource, looked: Sequence[InspectedImage | RowError]
) -> tuple[ProblemRow, list[InspectedImage]]:
    """The problem of a source row, checked; RowError with the reason when it cannot be one."""
    question = _wanted("question", row.question)
    images = []
    for each in looked:
        if isinstance(each, RowError):
            raise each
        images.append(each)
    hashes = [each.image_hash for each in images]
    domain = row.domain or source.domain or source.name
    answer, answer_type = _gold(row, source)
    problem = ProblemRow(
        problem_id=digest(domain, question, list(row.choices), hashes),
        domain=domain,
        role=source.role,
        source=source.name,
        source_row=row.source_row,
        revision=None if isinstance(source, SyntheticSource) else source.revision,
        licence=source.licence,
        question=question,
        choices=list(row.choices),
        answer=answer,
        accepted=list(row.accepted),
        answer_type=answer_type,
        tolerance=row.tolerance,
        image_hashes=hashes,
        truth=row.truth,
    )
    return problem, images


def _gold(row: SourceRow, source: AnySource) -> tuple[str | None, str | None]:
    """The gold answer and how it is graded; neither where a source with chains does without."""
    if row.answer is None and not source.needs_gold:
        return None, None
    answer = _wanted("answer", row.answer)
    stated = None if isinstance(source, SyntheticSource) or row.choices else source.answer_type
    kind = row.answer_type or stated
    long = kind is not None and GRADERS.find(kind).long
    if not long and (cure := solutions.cure_of(answer)) is not None:
        raise RowError("answer-is-a-solution", f"a worked solution, no answer; set {cure}: {answer[-80:]}")
    answer_type = kind or infer_type(answer, row.choices)
    for each in (answer, *row.accepted):
        _check_gold(each, answer_type, row)
    return answer, answer_type


def _wanted(what: str, value: str | None) -> str:
    if value is None:
        raise RowError(f"null-{what}", f"the row has no {what}")
    if not value.strip():
        raise RowError(f"empty-{what}", f"the {what} is blank")
    return value


def _check_gold(answer: str, answer_type: str, row: SourceRow) -> None:
    """A gold answer must pass its own grader."""
    verdict = grade(answer, answer, answer_type, row.choices, tolerance=row.tolerance)
    if verdict.outcome:
        return
    if answer_type == "choice":
        raise RowError("answer-not-in-choices", f'"{answer[:80]}" is not among {len(row.choices)} choices')
    raise RowError("gold-fails-own-grader", f'"{answer[:80]}" as {answer_type}: {verdict.rule}')


def image_row(image: InspectedImage, problem_id: str) -> ImageRow:
    """The row of `images`."""
    facts = image.facts
    return ImageRow(
        image_hash=image.image_hash,
        problem_id=problem_id,
        bytes=image.data,
        format=facts.format,
        width=facts.width,
        height=facts.height,
        perceptual_hash=facts.perceptual_hash,
        orientation=facts.orientation,
        has_alpha=facts.has_alpha,
        note=facts.note,
    )


class AnsweredProblem(Gradable, Protocol):
    """What a rollout takes from its problem, and what its answer is graded by."""

    @property
    def problem_id(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def role(self) -> str: ...


def given_id(problem_id: str, chain: GivenChain, repeat: int = 0) -> str:
    """Identity of a chain that was not generated here: its problem, text, thoughts and policy, wherever it comes from.

    The text of two policies is two rollouts. `repeat` tells samples apart that one policy drew alike.
    """
    beside = {"policy": chain.policy, "reasoning": chain.reasoning}
    known = [{key: value for key, value in beside.items() if value is not None}] if any(beside.values()) else []
    return f"{problem_id}-{digest([*chain.steps, *([repeat] if repeat else [])], *known, length=12)}"


def rollout_of(
    chain: GivenChain, problem: AnsweredProblem, source: str, sample_index: int, repeat: int = 0, words: Words = KNOWN
) -> RolloutRow:
    """The row of `rollouts` of a chain that `source` brings; its outcome as stated, else by the gold answer."""
    text = "".join(chain.steps)
    found = extract(text, wanted_of(problem, words))
    answer = None if found is None else found.answer
    outcome, rule = chain.outcome, GIVEN
    if outcome is None and problem.answer is None:
        rule = "no-gold"
    elif outcome is None and answer is None and not chain.whole:
        rule = "cut-short"
    elif outcome is None:
        assessed = assess(text, problem, words)
        outcome, rule = assessed.outcome, assessed.rule
    return RolloutRow(
        rollout_id=given_id(problem.problem_id, chain, repeat),
        problem_id=problem.problem_id,
        domain=problem.domain,
        role=problem.role,
        sample_index=sample_index,
        reasoning=chain.reasoning,
        text=text,
        token_ids=[],
        steps=list(chain.steps),
        step_ends=[],
        answer=answer,
        outcome=outcome,
        outcome_rule=rule,
        gold=None if chain.outcome is not None else gold_of(problem),
        finish=None,
        mean_logprob=None,
        prompt_tokens=None,
        tokens=None,
        seed=None,
        policy=f"{GIVEN}:{source}" + (f":{chain.policy}" if chain.policy else ""),
    )


def labels_of(chain: GivenChain, rollout: RolloutRow) -> list[StepLabelRow]:
    """The rows of `step_labels` of a chain; none where its source has no labels for it."""
    if not chain.values:
        return []
    found = []
    for step, value in enumerate(chain.values):
        count = chain.counts[step] if chain.counts else None
        k, m = count or (None, None)
        error = monte_carlo.exact(*count).standard_error if count else None
        found.append(
            StepLabelRow(
                rollout_id=rollout.rollout_id,
                problem_id=rollout.problem_id,
                domain=rollout.domain,
                role=rollout.role,
                step_index=step,
                mode=GIVEN,
                k=k,
                m=m,
                outcome=rollout.outcome,
                value=value,
                standard_error=error,
                weight=1.0,
                tokens=0,
                stopped=None,
                truncated=None,
                failed=None,
            )
        )
    return found


def reject(source: AnySource, source_row: str, error: RowError, number: int) -> RejectRow:
    """The row of `rejects` of the source's `number`-th row."""
    return RejectRow(
        stage="ingest",
        source=source.name,
        # Names may repeat in messy sources; the row's number keeps the key unique.
        source_row=f"{source_row}#{number}",
        problem_id=None,
        domain=source.domain,
        rollout_id=None,
        step_index=None,
        reason=error.reason,
        detail=error.detail[:500].encode("utf-8", "replace").decode(),
    )
