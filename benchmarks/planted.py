"""Verdicts on the demo's planted domains, run by run.

python benchmarks/planted.py WORKSPACE     after: curate run recipes/runs/planted.yaml --workspace WORKSPACE

Each real run by itself is judged by the band of one run: what null runs spread, and what real runs differ from one
another. Each null run is judged by what the other null runs spread. A real run counts when every domain with a planted
defect comes out down and no clean one does; a null run when every domain is indistinguishable. Clean domains that are
too hard do not count. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from curate.store import Workspace
from prm import stats, verdict
from prm.chance import bands_for


def verdicts(name: str, trained: stats.Training) -> dict[str, str]:
    """Domain -> verdict of one run. A null run has the others for its band, and the chance of batches with them."""
    if name in trained.final:
        bands = bands_for(trained.final, trained.null, trained.neutral, trained.noise, of=[name])
        return {d: one.verdict for d, one in verdict.weigh({name: trained.final[name]}, bands).items()}
    others = {other: weights for other, weights in trained.null.items() if other != name}
    alone = {name: trained.null[name]}
    return {d: one.verdict for d, one in verdict.weigh(alone, bands_for(alone, others, trained.neutral, {})).items()}


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
        told = verdicts(name, trained)
        called = {domain for domain, one in told.items() if one == verdict.DOWN}
        down, wrong = down + len(called & {*bad}), wrong + len(called & {*clean})
        found += called >= {*bad}
        right += called >= {*bad} and not called & {*clean}
        listed = ", ".join(f"{domain} {weight:.2f}" for domain, weight in sorted(weights.items(), key=lambda w: w[1]))
        print(f"{name}: down {', '.join(sorted(called)) or 'none'}; {listed}")
    for name, weights in trained.null.items():
        told = verdicts(name, trained) if len(trained.null) > 1 else {}
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
