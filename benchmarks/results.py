"""Ways to train a PRM side by side on data whose truth is known: best-of-8 and step errors, with intervals.

python benchmarks/results.py FOLDER [--recipe recipes/runs/results.yaml] [--write docs/results.md] [--only WAY ...]

Data are made once (FOLDER/data); each way is a workspace of its own on the same files, trained with the same seeds,
steps and batches. What is finished is kept. Accuracies are expectations over all picks of 8 of a problem's rollouts.
Intervals are 95 % percentiles of a bootstrap that draws problems and seeds anew, each together for all ways, so that
differences are paired. Step errors are judged against the exact truth of every step of the test rollouts. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from curate.errors import guarded
from curate.models.location import locate
from curate.seeds import seed
from curate.sources.synthetic import judge_truth
from curate.tables.schema import PROBLEMS
from curate.tables.store import Store
from prm import metrics
from prm.reporting import stats
from prm.scoring import select
from prm.scoring.best_of_n import expected

SIZE = 8
_SEARCH = {
    "mode": "domain",
    "null_runs": 0,
    # At a low, constant rate the domains keep a pull for longer (docs/measurements/verdicts.md).
    "lr": 1e-4,
    "lr_schedule": "constant",
    "upper": {
        "rule": "mirror",
        "loss": "auroc",
        "unroll": 1,
        "warmup": 26,
        "lr": 300,
        "meta_rows": 32,
        "meta_ema": 0.9,
    },
}
_NET = {"loss": "auroc", "unroll": 1, "warmup": 12, "meta_rows": 32, "meta_ema": 0.9}
_PLAIN_PRM, _MAJORITY = "uniform PRM", "majority vote"
_FIRST, _ANEW, _TOLD = "domain-weighted", "domain weights, anew", "told what is bad"
# Way -> what it adds to the recipe's `train`. `_ANEW` trains with the weights of `_FIRST` kept from the first step on
# (the geometric means over its runs), `_TOLD` with the truth: what weights of domains could gain at most.
WAYS: dict[str, dict[str, Any]] = {
    _PLAIN_PRM: {"mode": "uniform"},
    "s1": {"mode": "s1"},
    "car": {"mode": "car"},
    _FIRST: _SEARCH,
    _ANEW: {"mode": "frozen"},
    "instance-weighted": {"mode": "instance-net", "null_runs": 0, "upper": _NET},
    _TOLD: {"mode": "frozen"},
}
# Ways that need no training.
PLAIN = {"first": "first", "random pick": "random", _MAJORITY: "majority", "oracle": "oracle"}
DRAWS = 2000
_BEGIN, _END = "<!-- tables -->\n", "<!-- end of tables -->"


@dataclass(frozen=True)
class Found:
    """Holds what one way to train achieved.

    `accuracy` is that of the pick, and `votes` that of the vote weighted by its scores, both [seeds, problems];
    `scores` are those of the test steps [seeds, steps], NaN where there is none.
    """

    accuracy: Any
    votes: Any = None
    scores: Any = None


def _run(*command: str) -> None:
    started = time.monotonic()
    # The commands lie beside the interpreter that runs this.
    with subprocess.Popen([str(Path(sys.executable).parent / command[0]), *command[1:]]) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            # The key went to it as well, and it ends in its own time.
            child.wait()
            raise
    if code:
        sys.exit(f"{' '.join(command[:2])} ended with exit code {code}; what it finished is kept.")
    print(f"{' '.join(command[:2])}: {time.monotonic() - started:.0f} s", flush=True)


def _linked(source: Path, target: Path) -> None:
    """Link the files of a workspace into another one; this is safe, because committed shards never change."""
    for path in source.rglob("*"):
        if path.is_file() and not path.name.startswith("catalog"):
            here = target / path.relative_to(source)
            here.parent.mkdir(parents=True, exist_ok=True)
            if not here.exists():
                os.link(path, here)


def _folder(folder: Path, way: str) -> Path:
    return folder / way.replace(",", "").replace(" ", "-")


def _weights(way: str, folder: Path, sources: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The fixed weights of a way, by domain."""
    if way == _TOLD:
        return {one["name"]: 0.0 if "defect" in one else 1.0 for one in sources if one.get("role", "train") == "train"}
    final = stats.training(Store.open(_folder(folder, _FIRST), create=False)).final
    domains = sorted(next(iter(final.values())))
    return {name: math.exp(metrics.mean([math.log(one[name]) for one in final.values()]) or 0.0) for name in domains}


def train(folder: Path, recipe: Path, ways: Sequence[str]) -> None:
    """Make the data and do all ways, or what is left of them."""
    data = folder / "data"
    for stage in ("ingest", "rollout", "label", "shard"):
        _run("curate", stage, str(recipe), "-w", str(data))
    plan = yaml.safe_load(recipe.read_text())
    plan["train"]["model"] = locate(plan["train"]["model"], recipe.parent)
    for way in ways:
        here = _folder(folder, way)
        _linked(data, here)
        of_way = {name: plan[name] for name in ("name", "seed", "score", "select")}
        of_way["train"] = plan["train"] | WAYS[way]
        if WAYS[way]["mode"] == "frozen":
            of_way["train"]["weights"] = _weights(way, folder, plan["ingest"]["sources"])
        path = folder / f"{here.name}.yaml"
        path.write_text(yaml.safe_dump(of_way))
        for stage in ("train", "score"):
            _run("prm", stage, str(path), "-w", str(here))


def read(folder: Path, ways: Sequence[str]) -> tuple[dict[str, Found], list[str], list[bool | None]]:
    """What all ways found, the domain of each problem, and of each test step whether it is wrong (null: not told)."""
    data = Store.open(folder / "data", create=False)
    rollouts = list(data.rows(select.RankedRollout, pc.field("role") == "test"))
    steps = {row.rollout_id: len(row.steps) for row in rollouts}
    truths = {row["problem_id"]: row["truth"] for row in data.read(PROBLEMS, ["problem_id", "truth"]).to_pylist()}
    domain_of = {row.problem_id: row.domain for row in rollouts}
    wrong, places = [], {}
    for row in sorted(rollouts, key=lambda row: row.rollout_id):
        for step, right in enumerate(judge_truth(truths[row.problem_id], row.steps)):
            places[row.rollout_id, step] = len(wrong)
            wrong.append(not right)
    found, problems = {}, sorted(domain_of)
    for way in ways:
        here = Store.open(_folder(folder, way), create=False)
        logits = select.rollout_logits(here, steps, "mean-log-odds")
        candidates, runs = select.candidates_of(rollouts, logits), sorted(logits)
        table = {name: expected(candidates[name], runs, SIZE, seed("select", name, SIZE)) for name in problems}
        accuracy, votes = (
            np.array([[table[name][f"{kind} {run}"] for name in problems] for run in runs])
            for kind in ("prm", "weighted")
        )
        scores = np.full((len(runs), len(places)), np.nan)
        for row in here.rows(select.RunStepScore):
            if row.score is not None:
                scores[runs.index(row.run), places[row.rollout_id, row.step_index]] = row.score
        found[way] = Found(accuracy, votes, scores)
    for name, method in PLAIN.items():
        found[name] = Found(np.array([[table[one][method] for one in problems]]))
    return found, [domain_of[name] for name in problems], wrong


def intervals(
    accuracies: Mapping[str, Any], chosen: Any, number: int, than: str
) -> dict[str, tuple[float, float, float]]:
    """Way -> (mean, low, high) over the chosen problems, and "a - b" -> the same of its difference to the way `than`.

    `accuracies` are [seeds, problems] of each way.
    """
    draw, count = np.random.default_rng(number), int(chosen.sum())
    problems = draw.integers(0, count, (DRAWS, count))
    seeds = max(map(len, accuracies.values()))
    drawn = draw.integers(0, seeds, (DRAWS, seeds))
    means = {}
    for way, accuracy in accuracies.items():
        part = accuracy[:, chosen]
        of_seeds = part[drawn % len(part)].mean(axis=1) if len(part) > 1 else np.repeat(part, DRAWS, axis=0)
        means[way] = (part.mean(), np.take_along_axis(of_seeds, problems, axis=1).mean(axis=1))
    base = means[than]
    shown = dict(means) | {f"{way} - {than}": (m - base[0], d - base[1]) for way, (m, d) in means.items()}
    return {way: (float(m), *map(float, np.quantile(d, (0.025, 0.975)))) for way, (m, d) in shown.items()}


def step_errors(one: Found, wrong: Sequence[bool]) -> dict[str, float]:
    """Means over seeds: F1 of wrong steps (a score below 1/2 calls a step wrong), and AUROC of the scores."""
    truth, f1, area = np.array(wrong), [], []
    for scores in one.scores:
        there = ~np.isnan(scores)
        called = scores[there] < 0.5
        hits = int((called & truth[there]).sum())
        f1.append(2 * hits / max(1, int(called.sum()) + int(truth[there].sum())))
        area.append(metrics.auroc(scores[there].tolist(), (~truth[there]).tolist()) or float("nan"))
    return {
        "f1": float(np.mean(f1)),
        "f1_sd": float(np.std(f1, ddof=1)),
        "auroc": float(np.mean(area)),
        "auroc_sd": float(np.std(area, ddof=1)),
    }


def _cell(found: tuple[float, float, float], digits: int = 1) -> str:
    mean, low, high = (100 * value for value in found)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def markdown(found: Mapping[str, Found], domains: Sequence[str], wrong: Sequence[bool]) -> tuple[str, dict[str, Any]]:
    """Tables for people, and the same figures as plain values."""
    of = np.array(domains)
    picks = {way: one.accuracy for way, one in found.items()}
    overall = intervals(picks, np.ones(len(of), bool), 1, _PLAIN_PRM)
    voted = {way: one.votes for way, one in found.items() if one.votes is not None}
    votes = intervals(voted | {_MAJORITY: picks[_MAJORITY]}, np.ones(len(of), bool), 1, _MAJORITY)
    order = sorted(found, key=lambda way: overall[way][0])
    head = [f"best of {SIZE}, {len(of)} problems", "% right (95 % interval)", "points above the uniform PRM"]
    head += ["% right of the vote weighted by it", "points above majority vote", "F1 of wrong steps", "AUROC of steps"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    plain: dict[str, Any] = {"problems": len(of), "overall": {}, "votes": votes, "by_domain": {}, "steps": {}}
    for way in order:
        steps = step_errors(found[way], wrong) if found[way].scores is not None else None
        plain["overall"][way], plain["steps"][way] = overall[way], steps
        told = [f"{steps[n]:.3f} ± {steps[f'{n}_sd']:.3f}" for n in ("f1", "auroc")] if steps else ["–", "–"]
        above = "–" if way == _PLAIN_PRM else _cell(overall[f"{way} - {_PLAIN_PRM}"])
        by_vote = [_cell(votes[way]), _cell(votes[f"{way} - {_MAJORITY}"])] if way in voted else ["–", "–"]
        lines.append(f"| {' | '.join([way, _cell(overall[way]), above, *by_vote, *told])} |")
    lines += ["", f"| domain | {' | '.join(order)} |", "|---|" + "---|" * len(order)]
    for domain in sorted(set(domains)):
        here = intervals(picks, of == domain, 2, _PLAIN_PRM)
        plain["by_domain"][domain] = {way: here[way] for way in order}
        lines.append(f"| {domain} | {' | '.join(_cell(here[way], 0) for way in order)} |")
    return "\n".join(lines) + "\n", plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parent.parent / "recipes/runs/results.yaml")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this Markdown file")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    started = time.monotonic()
    train(given.folder, given.recipe, given.only)
    text, plain = markdown(*read(given.folder, given.only))
    print(text)
    if given.write:
        head, _, rest = given.write.read_text().partition(_BEGIN)
        given.write.write_text(f"{head}{_BEGIN}{text}{_END}{rest.partition(_END)[2]}")
    print(json.dumps(plain | {"seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    guarded(main)
