"""Verdicts on the demo's planted domains, run by run.

python benchmarks/planted.py WORKSPACE     after: curate run recipes/runs/planted.yaml --workspace WORKSPACE

Each real run by itself is judged against the bands of all null runs, and each null run against those of the others.
A real run counts when every domain with a planted defect comes out down and no clean one does; a null run when every
domain is indistinguishable. Clean domains that are too hard do not count. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from curate.store import Workspace
from prm import stats, verdict
from prm.chance import bands_for

Weights = Mapping[str, Mapping[str, float]]


def verdicts(name: str, weights: Weights, null: Weights, trained: stats.Training) -> dict[str, str]:
    """Domain -> verdict of one run."""
    alone = {name: weights[name]}
    found = verdict.weigh(alone, bands_for(alone, null, trained.neutral, trained.noise))
    return {domain: one.verdict for domain, one in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workspace", type=Path)
    workspace = Workspace.open(parser.parse_args().workspace, create=False)
    facts, _ = stats.domain_facts(workspace)
    trained = stats.training(workspace)
    hard = {domain for domain, one in facts.items() if verdict.too_hard(one.accuracy)}
    bad = sorted(domain for domain, one in facts.items() if one.planted)
    clean = sorted(domain for domain in facts if domain not in (*bad, *hard))
    found = right = same = down = wrong = 0
    for name, weights in trained.final.items():
        told = verdicts(name, trained.final, trained.null, trained)
        called = {domain for domain, one in told.items() if one == verdict.DOWN}
        down, wrong = down + len(called & {*bad}), wrong + len(called & {*clean})
        found += called >= {*bad}
        right += called >= {*bad} and not called & {*clean}
        listed = ", ".join(f"{domain} {weight:.2f}" for domain, weight in sorted(weights.items(), key=lambda w: w[1]))
        print(f"{name}: down {', '.join(sorted(called)) or 'none'}; {listed}")
    for name, weights in trained.null.items():
        others = {other: one for other, one in trained.null.items() if other != name}
        told = verdicts(name, {name: weights}, others, trained) if others else {}
        odd = {domain: one for domain, one in told.items() if one != verdict.SAME}
        same += not odd
        print(f"{name}: {odd or 'all indistinguishable'}, {min(weights.values()):.2f} to {max(weights.values()):.2f}")
    for domain, band in bands_for(trained.final, trained.null, trained.neutral, trained.noise).items():
        print(f"chance, {domain}: {band.low:.2f} to {band.high:.2f}")
    print(
        json.dumps(
            {
                "seeds": len(trained.final),
                "seeds_right": right,
                "seeds_all_bad_down": found,
                "bad_down": f"{down} of {len(bad) * len(trained.final)}",
                "clean_down": f"{wrong} of {len(clean) * len(trained.final)}",
                "null_runs": len(trained.null),
                "null_all_indistinguishable": same,
            }
        )
    )


if __name__ == "__main__":
    main()
