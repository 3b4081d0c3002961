"""Best-of-N on the test set: how good is the rollout that a PRM picks, beside the picks that need no PRM.

For every problem with at least N rollouts the accuracy of a pick is its expectation over all subsets of N of them, so a
smaller N is not a lucky or unlucky draw, and never of the best subset. The methods: `prm` (best aggregated step score),
`weighted` (answer with the largest sum of scores), `orm` (best score of an outcome reward model), `majority` (most
frequent answer), `first` (lowest sample index), `random`, `oracle` (right if any is). A rollout with an undecided
outcome counts as not right, whoever picks it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from curate.errors import UserError
from curate.seeds import seed
from curate.stages import golds
from curate.tables import lineage
from curate.tables.rows import columns_of
from curate.tables.schema import ROLLOUTS, STEP_SCORES
from curate.tables.store import Store, write_atomic
from prm import metrics
from prm.metrics import CalibrationBin, Interval
from prm.scoring.best_of_n import Candidate, best, expected, first, majority, probability, ranking, weighted

if TYPE_CHECKING:
    from prm.sections import SelectConfig

METHODS = ("prm", "weighted", "orm", "majority", "first", "random", "oracle")
# Those that go by scores, of each run.
BY_RUN = ("prm", "weighted", "orm")


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class RankedRollout:
    """What best-of-N reads of a rollout."""

    rollout_id: str
    problem_id: str
    domain: str
    sample_index: int
    steps: Sequence[str]
    answer: str | None
    outcome: bool | None


@columns_of(STEP_SCORES)
@dataclass(frozen=True, slots=True)
class RunStepScore:
    """A run's score of a step."""

    run: str
    rollout_id: str
    step_index: int
    score: float | None


@dataclass(frozen=True)
class Score:
    """Accuracy of one method with N candidates; `domain` and `run` are None for all of them together.

    `standard_error` and the 95 % `interval` of the accuracy, cut to [0, 1], are over problems; `gain` is the paired
    difference to `random` with its own standard error.
    """

    domain: str | None
    size: int
    method: str
    run: str | None
    problems: int
    accuracy: float
    standard_error: float | None
    interval: Interval | None
    gain: float
    gain_error: float | None


@dataclass(frozen=True)
class Calibration:
    """How well the rollout scores of a run are probabilities of a right answer, over decided, scored rollouts."""

    run: str
    rollouts: int
    brier: float | None
    error: float | None
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True)
class Pick:
    """One candidate under one run: its rollout score in (0, 1), its rank, and which methods pick it among all."""

    run: str
    problem_id: str
    rollout_id: str
    domain: str
    sample_index: int
    answer: str | None
    outcome: bool | None
    score: float | None
    rank: int
    picked_by: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Best-of-N of every PRM (`runs`) and ORM. `missing` counts rollouts without a whole score: they rank last."""

    aggregation: str
    sizes: tuple[int, ...]
    runs: tuple[str, ...]
    orms: tuple[str, ...]
    problems: int
    rollouts: int
    undecided: int
    missing: Mapping[str, int]
    scores: tuple[Score, ...]
    calibrations: tuple[Calibration, ...]
    picks: tuple[Pick, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that have scores."""
        return tuple(method for method in METHODS if self.find(method, self.sizes[-1]) is not None)

    def find(self, method: str, size: int, domain: str | None = None, run: str | None = None) -> Score | None:
        """The score of these; None where there is none."""
        wanted = (method, size, domain, run)
        return next((one for one in self.scores if (one.method, one.size, one.domain, one.run) == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without the picks (see `pick_rows`)."""
        return {
            "schema": "curate-prm/selection/1",
            "aggregation": self.aggregation,
            "sizes": list(self.sizes),
            "runs": list(self.runs),
            "orms": list(self.orms),
            "problems": self.problems,
            "rollouts": self.rollouts,
            "undecided": self.undecided,
            "missing": dict(self.missing),
            "scores": [asdict(score) for score in self.scores],
            "calibration": [vars(one) | {"bins": [vars(part) for part in one.bins]} for one in self.calibrations],
        }

    def pick_rows(self) -> list[dict[str, Any]]:
        """One plain row for every run and candidate."""
        return [vars(pick) | {"picked_by": list(pick.picked_by)} for pick in self.picks]


def run(workspace: Store, config: SelectConfig) -> Selection:
    """Best-of-N over the test rollouts for every run that has step scores.

    Sizes above what any problem has are left out. UserError when there are no test rollouts, no scores of them, no
    such aggregation, no size that can be used, or where gold answers changed since rollouts were graded.
    """
    sizes, aggregation = config.sizes, config.aggregation
    if not sizes or min(sizes) < 1:
        raise UserError("`select.sizes` must name at least one number of candidates, each 1 or more.")
    rollouts = list(workspace.rows(RankedRollout, pc.field("role") == "test"))
    if not rollouts:
        raise UserError("There is no rollout with role test; give the recipe a source with role test and roll it out.")
    golds.check(workspace, ROLLOUTS)
    orms = outcome_models(workspace)
    steps = {row.rollout_id: len(row.steps) for row in rollouts}
    logits = rollout_logits(workspace, steps, aggregation, orms)
    if not logits:
        raise UserError("There are no step scores of test rollouts; run `prm score` first.")
    runs = tuple(sorted(logits))
    prms = tuple(name for name in runs if name not in orms)
    problems = candidates_of(rollouts, logits)
    largest = max(len(candidates) for candidates in problems.values())
    usable = tuple(sorted({size for size in sizes if size <= largest}))
    if not usable:
        raise UserError(f"No problem has {min(sizes)} rollouts; lower `select.sizes` to {largest} at most.")
    missing = {name: sum(row.rollout_id not in logits[name] for row in rollouts) for name in runs}
    domains = {row.problem_id: row.domain for row in rollouts}
    return Selection(
        aggregation,
        usable,
        prms,
        tuple(name for name in runs if name in orms),
        len(problems),
        len(rollouts),
        sum(row.outcome is None for row in rollouts),
        missing,
        tuple(compare(problems, domains, _runs_of(runs, orms), usable)),
        tuple(_calibration(name, rollouts, logits[name]) for name in runs),
        tuple(_picks(prms, rollouts, problems, logits)),
    )


def to_json(selection: Selection) -> dict[str, Any]:
    """Plain values for JSON, with `candidates`: one row for every run and test rollout."""
    return selection.to_json() | {"candidates": selection.pick_rows()}


def write(selection: Selection, workspace: Store) -> Path:
    """Write `to_json` to <workspace>/reports/select.json, whole or not at all; its path."""
    path = workspace.root / "reports" / "select.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(to_json(selection), ensure_ascii=False, indent=1, allow_nan=False).encode())
    return path


def outcome_models(workspace: Store) -> set[str]:
    """Names of those whose scores are of outcomes, as `prm score` recorded."""
    records = {one.folder.name: lineage.read(one) for one in workspace.partitions(STEP_SCORES)}
    return {name for name, record in records.items() if record and record["config"].get("target") == "outcome"}


def _runs_of(runs: Sequence[str], orms: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Method -> the runs that it goes by; those without any are left out."""
    prms, others = tuple(name for name in runs if name not in orms), tuple(name for name in runs if name in orms)
    return {method: part for method, part in (("prm", prms), ("weighted", prms), ("orm", others)) if part}


def rollout_logits(
    workspace: Store, steps: Mapping[str, int], name: str, orms: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Aggregated logit of every wholly scored rollout: run -> rollout -> logit. One null or absent step is a gap; of
    outcome models (`orms`) the logit at the last step. `steps` are the rollouts with their numbers of steps.
    """
    # torch, which a command's help must not import
    from prm.model.aggregate import aggregation, rollout_logit

    aggregate = aggregation(name)
    kept: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in workspace.rows(RunStepScore):
        if row.rollout_id in steps and row.score is not None:
            kept[row.run, row.rollout_id][row.step_index] = row.score
    logits: dict[str, dict[str, float]] = defaultdict(dict)
    for (trained, rollout), scores in kept.items():
        if trained in orms and steps[rollout] - 1 in scores:
            scores = dict.fromkeys(range(steps[rollout]), scores[steps[rollout] - 1])
        if sorted(scores) == list(range(steps[rollout])):
            logit = rollout_logit([scores[step] for step in range(steps[rollout])], aggregate)
            if logit is not None:
                logits[trained][rollout] = logit
    return dict(logits)


def candidates_of(
    rollouts: Sequence[RankedRollout], logits: Mapping[str, Mapping[str, float]]
) -> dict[str, list[Candidate]]:
    """Candidates of each problem, by sample index."""
    problems: dict[str, list[Candidate]] = {}
    for problem, rows in _by_problem(rollouts).items():
        problems[problem] = [
            Candidate(
                row.sample_index,
                row.answer,
                row.outcome,
                {name: one.get(row.rollout_id) for name, one in logits.items()},
            )
            for row in rows
        ]
    return problems


def _by_problem(rollouts: Sequence[RankedRollout]) -> dict[str, list[RankedRollout]]:
    """The rollouts of each problem, by sample index: the order that its candidates have, too."""
    problems: dict[str, list[RankedRollout]] = defaultdict(list)
    for row in sorted(rollouts, key=lambda row: (row.problem_id, row.sample_index, row.rollout_id)):
        problems[row.problem_id].append(row)
    return dict(problems)


def compare(
    problems: Mapping[str, Sequence[Candidate]],
    domains: Mapping[str, str],
    runs: Mapping[str, Sequence[str]],
    sizes: Sequence[int],
) -> list[Score]:
    """Scores of every method and size, overall first, then per domain. `runs` names those of each method that goes by
    scores: each has its own, and so has their mean; a method that is not named there is left out.
    """
    scores, every = [], tuple(sorted({name for part in runs.values() for name in part}))
    for size in sizes:
        accuracy = {
            name: expected(candidates, every, size, seed("select", name, size))
            for name, candidates in problems.items()
            if len(candidates) >= size
        }
        for domain in (None, *sorted({domains[name] for name in accuracy})):
            names = [name for name in accuracy if domain in (None, domains[name])]
            for method in (one for one in METHODS if one not in BY_RUN or one in runs):
                of_method = runs.get(method, ())
                for trained in (None, *of_method):
                    values = [_value(accuracy[name], method, trained, of_method) for name in names]
                    gains = [value - accuracy[name]["random"] for value, name in zip(values, names, strict=True)]
                    scores.append(_score(domain, size, method, trained, values, gains))
    return scores


def _value(accuracy: Mapping[str, float], method: str, trained: str | None, runs: Sequence[str]) -> float:
    if method not in BY_RUN:
        return accuracy[method]
    chosen, kind = runs if trained is None else (trained,), "weighted" if method == "weighted" else "prm"
    return sum(accuracy[f"{kind} {name}"] for name in chosen) / len(chosen)


def _score(
    domain: str | None, size: int, method: str, trained: str | None, values: Sequence[float], gains: Sequence[float]
) -> Score:
    return Score(
        domain,
        size,
        method,
        trained,
        len(values),
        sum(values) / len(values),
        metrics.standard_error(values),
        metrics.within(metrics.interval(values), 0.0, 1.0),
        sum(gains) / len(gains),
        metrics.standard_error(gains),
    )


def _calibration(name: str, rollouts: Sequence[RankedRollout], logits: Mapping[str, float]) -> Calibration:
    known = [
        (logits[row.rollout_id], row.outcome)
        for row in rollouts
        if row.outcome is not None and row.rollout_id in logits
    ]
    probabilities, outcomes = [probability(logit) for logit, _ in known], [outcome for _, outcome in known]
    bins = metrics.calibration(probabilities, outcomes)
    return Calibration(
        name, len(outcomes), metrics.brier(probabilities, outcomes), metrics.calibration_error(bins), tuple(bins)
    )


def _picks(
    runs: Sequence[str],
    rollouts: Sequence[RankedRollout],
    problems: Mapping[str, Sequence[Candidate]],
    logits: Mapping[str, Mapping[str, float]],
) -> list[Pick]:
    rows = _by_problem(rollouts)
    picks = []
    for name in runs:
        for problem, candidates in problems.items():
            chosen = {"prm": best(candidates, name), "weighted": weighted(candidates, name)}
            chosen |= {"majority": majority(candidates), "first": first(candidates)}
            places = {place: rank for rank, place in enumerate(ranking(candidates, name), 1)}
            for place, (candidate, row) in enumerate(zip(candidates, rows[problem], strict=True)):
                logit = logits[name].get(row.rollout_id)
                picks.append(
                    Pick(
                        name,
                        problem,
                        row.rollout_id,
                        row.domain,
                        candidate.sample_index,
                        candidate.answer,
                        candidate.outcome,
                        None if logit is None else probability(logit),
                        places[place],
                        tuple(method for method, pick in chosen.items() if pick == place),
                    )
                )
    return picks
