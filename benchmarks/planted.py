"""Verdicts on the demo's planted domains, study by study.

python benchmarks/planted.py WORKSPACE [--together 3]   after: curate run recipes/runs/planted.yaml -w WORKSPACE

A study is what `prm train` with so many seeds gives: real runs 0 to 2, 3 to 5, and so on, each judged by itself, as
`prm report` with the recipe would, against all null runs. It counts when every domain with a planted defect comes out
down and no clean one does. Each null run is judged by what the other null runs spread, and counts when every domain is
indistinguishable. Clean domains that are too hard do not count. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from curate import pipeline
from curate.tables.store import Store
from prm.reporting import stats, verdict
from prm.reporting.null_band import bands_for
from prm.reporting.verdict import Weighing

Weights = Mapping[str, Mapping[str, float]]


def studies(runs: Sequence[str], together: int) -> list[list[str]]:
    """Whole studies of the real runs, in the order of their numbers."""
    ordered = sorted(runs, key=lambda run: int(run.rsplit("-", 1)[1]))
    return [ordered[start : start + together] for start in range(0, len(ordered) - together + 1, together)]


def judged(
    final: Weights, null: Weights, trained: stats.Training, least: float, noise: bool = True
) -> dict[str, Weighing]:
    """Domain -> its weighing over these runs."""
    return verdict.weigh(final, bands_for(final, null, trained.neutral, trained.noise if noise else {}, least))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--together", type=int, default=3, help="real runs in a study")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parent.parent / "recipes/runs/planted.yaml")
    given = parser.parse_args()
    least = pipeline.load(given.recipe).section("report").least
    workspace = Store.open(given.workspace, create=False)
    facts, _ = stats.domain_facts(workspace)
    trained = stats.training(workspace)
    hard = {domain for domain, one in facts.items() if verdict.too_hard(one.accuracy)}
    bad = sorted(domain for domain, one in facts.items() if one.planted)
    clean = sorted(domain for domain in facts if domain not in (*bad, *hard))
    found = right = same = down = wrong = 0
    every = studies(list(trained.final), given.together)
    for runs in every:
        told = judged({run: trained.final[run] for run in runs}, trained.null, trained, least)
        called = {domain for domain, one in told.items() if one.verdict == verdict.DOWN}
        down, wrong = down + len(called & {*bad}), wrong + len(called & {*clean})
        found += called >= {*bad}
        right += called >= {*bad} and not called & {*clean}
        weights = sorted((one.weight, domain) for domain, one in told.items())
        print(f"{runs[0]} to {runs[-1]}: down {', '.join(sorted(called)) or 'none'}; "
              f"{', '.join(f'{domain} {weight:.2f}' for weight, domain in weights)}")  # fmt: skip
    for name, weights in trained.null.items():
        others = {other: one for other, one in trained.null.items() if other != name}
        # What batches do to it is in the spread of the others.
        told = judged({name: weights}, others, trained, least, noise=False) if others else {}
        odd = {domain: one.verdict for domain, one in told.items() if one.verdict != verdict.SAME}
        same += not odd
        print(f"{name}: {odd or 'all indistinguishable'}, {min(weights.values()):.2f} to {max(weights.values()):.2f}")
    print(
        json.dumps(
            {
                "studies": len(every),
                "runs_a_study": given.together,
                "studies_right": right,
                "studies_all_bad_down": found,
                "bad_down": f"{down} of {len(bad) * len(every)}",
                "clean_down": f"{wrong} of {len(clean) * len(every)}",
                "null_runs": len(trained.null),
                "null_all_indistinguishable": same,
            }
        )
    )


if __name__ == "__main__":
    main()
