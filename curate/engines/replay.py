"""Replay: the samples of an earlier workspace again, so that grading, steps and labels can change without a model.

`engine.model` is the path of a workspace. A request is found by what its id says (the problem or the rollout and step,
and the first sample index) and must ask for what was asked there: the same prompt, prefix and sampling. A request any
of whose samples is not there is refused as a whole. The rows that come of it belong to the policy that drew the
samples, as if that one had been asked. The order of the samples counts, not their seeds.

Where tokens end is stored at the ends of steps only. Steps that are joined otherwise can be replayed; a chain that is
to be cut inside one of its steps is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.errors import RowError, UserError
from curate.recipe.sections import EngineConfig
from curate.tables import lineage
from curate.tables.rows import CompletionRow, RolloutRow, columns_of, rows_of
from curate.tables.schema import COMPLETIONS, PROBLEMS, ROLLOUTS
from curate.tables.store import Store
from curate.text import prompts, thinking

_SAMPLING = ("temperature", "top_p", "top_k")


def source_settings(model: str) -> dict[str, Any]:
    """The settings that the rollouts of the workspace at this path were made with; UserError when it has none."""
    if not (Path(model) / "workspace.json").is_file():
        raise UserError(f"There is no workspace at {model} to replay; engine.model is the path of one for replay.")
    record = lineage.read(Store.open(Path(model), create=False).partition(ROLLOUTS))
    if record is None:
        raise UserError(f"The workspace {model} has no rollouts to replay; run `curate rollout` there first.")
    return dict(record["config"])


def check(model: str, prompt: str, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the workspace, where its samples were asked for by this prompt and sampling; else UserError."""
    there = source_settings(model)
    wanted = lineage.changes(
        {"prompt": there["prompt"], "sampling": there["sampling"]}, {"prompt": prompt, "sampling": sampling}
    )
    if wanted:
        raise UserError(
            f"The samples of {model} were drawn with other settings than the recipe's ({'; '.join(wanted)}); set them "
            "back to replay them."
        )
    return there


def check_cuts(pieces: Sequence[str], token_ends: Sequence[int]) -> None:
    """RowError where a chain is cut inside what was one step: which of its tokens go where is not stored."""
    if not set(accumulate(map(len, pieces))) <= set(token_ends):
        raise RowError("cut-not-stored", "the chain is cut where the replayed workspace had no cut; generate it anew")


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class _Asked:
    """What a problem's prompt is made of."""

    problem_id: str
    question: str
    choices: Sequence[str]
    image_hashes: Sequence[str]


class ReplayEngine:
    """An engine that finds its samples in the workspace `config.model`; it takes no `args`."""

    uses = frozenset[str]()

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        if config.args:
            raise UserError(f'The replay engine has no argument "{next(iter(config.args))}"; it takes none.')
        self._config, self._note = config, on_note
        self._open = False

    async def __aenter__(self) -> ReplayEngine:
        """Read the workspace; UserError when there is none, or no rollouts in it."""
        self._settings = source_settings(self._config.model)
        workspace = Store.open(Path(self._config.model), create=False)
        self._rollouts = workspace.partition(ROLLOUTS).read()
        self._completions = workspace.partition(COMPLETIONS).read()
        self._problems = {row.problem_id: row for row in workspace.rows(_Asked)}
        ids = self._rollouts["rollout_id"].to_pylist()
        self._rollout_at = {name: at for at, name in enumerate(ids)}
        keys = zip(*(self._completions[column].to_pylist() for column in COMPLETIONS.key), strict=True)
        self._completion_at = {
            f"{rollout}-{step:02d}-{index:03d}": at for at, (rollout, step, index) in enumerate(keys)
        }
        self._open = True
        self._note(f"Engine: replay of {len(ids)} rollouts and {self._completions.num_rows} completions; no model.")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Forget what was read."""
        self._open, self._rollout_at, self._completion_at, self._problems = False, {}, {}, {}

    def versions(self) -> dict[str, str]:
        """Where the samples came from, and the model that drew them."""
        return {"replay": self._config.model, "model": str(self._settings["model"])}

    async def generate(self, request: Request) -> list[Sample]:
        """The stored samples; RequestRejected when one of them is missing, or was drawn from something else."""
        if not self._open:
            raise EngineDead("the workspace is closed")
        head, _, first = request.request_id.rpartition("-")
        if not first.isdecimal():
            raise RequestRejected(f"the request {request.request_id} names no sample index")
        names = [f"{head}-{int(first) + place:03d}" for place in range(request.n)]
        rows = [self._row(name) for name in names]
        self._check(request, rows[0])
        return [_sample(row) for row in rows]

    def _row(self, name: str) -> RolloutRow | CompletionRow:
        if (place := self._completion_at.get(name)) is not None:
            return next(rows_of(CompletionRow, self._completions.slice(place, 1)))
        return self._rollout(name)

    def _rollout(self, name: str) -> RolloutRow:
        place = self._rollout_at.get(name)
        if place is None:
            raise RequestRejected(f"the workspace {self._config.model} has no sample {name}")
        return next(rows_of(RolloutRow, self._rollouts.slice(place, 1)))

    def _check(self, request: Request, row: RolloutRow | CompletionRow) -> None:
        """RequestRejected when what was asked for there is not what is asked for here."""
        problem = self._problems.get(row.problem_id)
        if problem is None:
            raise RequestRejected(f"the problem {row.problem_id} is not there any more")
        name, _, version = str(self._settings["prompt"]).partition("/")
        known = prompts.TEMPLATES.get(name)
        # A template of the user's own is not kept there; that it is the same was checked by its digest.
        prompt = request.prompt
        if known is not None and str(known.version) == version:
            prompt = prompts.render(name, problem.question, problem.choices, len(problem.image_hashes))
        prefix_ids, prefix = self._prefix(row)
        sampling: Mapping[str, Any] = self._settings["sampling"]
        asked = vars(request.sampling)
        budget = max(sampling["max_tokens"] - len(prefix_ids), 1)
        for what, now, then in [
            ("prompt", request.prompt, prompt),
            ("images", [image.image_hash for image in request.images], list(problem.image_hashes)),
            ("prefix", list(request.prefix_ids), prefix_ids),
            ("prefix", request.prefix_text, prefix),
            *((each, asked[each], sampling[each]) for each in _SAMPLING),
            ("max_tokens", asked["max_tokens"], budget),
        ]:
            if now != then:
                raise RequestRejected(f"the sample {request.request_id} was drawn with another {what}")

    def _prefix(self, row: RolloutRow | CompletionRow) -> tuple[list[int], str]:
        """Token ids and text that a stored sample continues; none for a rollout."""
        if isinstance(row, RolloutRow):
            return [], ""
        rollout, step = self._rollout(row.rollout_id), row.step_index
        cut = rollout.step_ends[step] if rollout.step_ends else 0
        text = thinking.before(rollout.reasoning) + "".join(rollout.steps[: step + 1])
        return list(rollout.token_ids[:cut]), text


def _sample(row: RolloutRow | CompletionRow) -> Sample:
    if row.finish is None:
        raise RequestRejected(f"how the sample {row.rollout_id} ended is not known")
    return Sample(
        text=row.text,
        token_ids=row.token_ids,
        token_ends=_token_ends(row) if isinstance(row, RolloutRow) else (),
        finish=row.finish,
        mean_logprob=row.mean_logprob if isinstance(row, RolloutRow) else None,
        prompt_tokens=row.prompt_tokens,
        reasoning=row.reasoning,
        tokens=row.tokens,
        seed=row.seed,
    )


def _token_ends(rollout: RolloutRow) -> Sequence[int]:
    """Where tokens end, as far as it is stored: within a step a token counts as ending where the step begins.

    `steps.token_cuts` gives the stored cuts back.
    """
    if not rollout.step_ends:
        return ()
    ends = [0, *accumulate(len(step) for step in rollout.steps)]
    return [ends[bisect_right(rollout.step_ends, count)] for count in range(1, len(rollout.token_ids) + 1)]
