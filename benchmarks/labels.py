"""Label error against generated tokens: `exact`, `pooled`, `hard` and `legacy`, where the truth is known.

python benchmarks/labels.py [--problems 3000] [--plot labels.png]
python benchmarks/labels.py --workspace W [--plot labels.png]

Without a workspace: in each of the simulated engine's worlds, eight rollouts a problem, the first one labelled, 16
completions drawn of each prefix, and every rule takes what it would have drawn of those. The truth is the prefix's
exact value. With a workspace (`curate run recipes/runs/labels.yaml`): its completions, the first 16 for the rules and
the rest as pseudo-truth, whose own sampling error is taken off the error. Tokens are those of the completions; the
rollouts are there whatever the rule. The ratio of `pooled` at `exact`'s error is read off its curve, log over log, and
its interval is a bootstrap over problems. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.engines import worlds
from curate.stages.label import allocation, rules
from curate.stages.label.allocation import Siblings

BANK = 16
ROLLOUTS = 8
EXACT = range(1, BANK + 1)
MEANS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 14)


@dataclass(frozen=True)
class Chain:
    """A labelled rollout: its row, what its siblings say, and of each prefix truth, its variance and the bank."""

    problem: str
    rollout: dict
    siblings: Siblings
    truth: Sequence[float]
    noise: Sequence[float]
    outcomes: Sequence[Sequence[bool | None]]
    tokens: Sequence[Sequence[int]]


def split(text: str) -> list[str]:
    """A simulated chain's steps; what it says at the end belongs to the last."""
    *lines, final = text.splitlines(keepends=True)
    return [*lines[:-1], lines[-1] + final]


def simulated(name: str, problems: int) -> list[Chain]:
    """Chains of one world; a token is a byte."""
    made = []
    for number in range(problems):
        world = worlds.world(f"problem {number}", name, None)
        rng = random.Random(f"{name} {number}")

        def right(text: str, gold: str = world.gold) -> bool:
            return text.rpartition("Final answer: ")[2] == gold

        texts = [world.continue_("", rng)[0] for _ in range(ROLLOUTS)]
        counts = [text.count("Step ") for text in texts]
        steps = split(texts[0])
        rollout = {"rollout_id": f"{number}", "steps": steps, "step_ends": [], "outcome": right(texts[0])}
        truth, outcomes, tokens, prefix = [], [], [], ""
        for step in steps[:-1]:
            prefix += step
            ends = [world.continue_(prefix, rng)[0] for _ in range(BANK)]
            truth.append(world.value_of(prefix))
            outcomes.append([right(prefix + end) for end in ends])
            tokens.append([len(end) for end in ends])
        others = [right(text) for text in texts[1:]], [list(map(len, split(text))) for text in texts[1:]]
        made.append((counts, others, (str(number), rollout), (truth, [0.0] * len(truth), outcomes, tokens)))
    domain = Counter(count for counts, *_ in made for count in counts)
    return [Chain(*head, Siblings.of(*others, domain - Counter(counts)), *tail) for counts, others, head, tail in made]


def measured(workspace: Path) -> list[Chain]:
    """Chains of a workspace whose completions were drawn by mode `exact`."""
    from curate.stages.label.families import siblings_of
    from curate.tables.schema import COMPLETIONS, ROLLOUTS
    from curate.tables.store import Store

    place = Store.open(workspace, create=False)
    rollouts = place.read(ROLLOUTS).to_pylist()
    by_problem: dict[str, list[dict]] = defaultdict(list)
    domains: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rollouts:
        by_problem[row["problem_id"]].append(row)
        domains[row["domain"]][len(row["steps"])] += bool(row["steps"])
    siblings = {
        name: each
        for rows in by_problem.values()
        for name, each in siblings_of(rows, domains[rows[0]["domain"]]).items()
    }
    bank: dict[tuple[str, int], dict[int, tuple[bool | None, int]]] = defaultdict(dict)
    for row in place.read(COMPLETIONS).to_pylist():
        bank[row["rollout_id"], row["step_index"]][row["sample_index"]] = row["outcome"], row["tokens"]
    found = []
    for rollout in rollouts:
        drawn = [bank.get((rollout["rollout_id"], step), {}) for step in range(len(rollout["steps"]) - 1)]
        if not drawn or min(map(len, drawn)) <= 2 * BANK:
            continue
        ordered = [[pair for _, pair in sorted(each.items())] for each in drawn]
        rest = [[outcome for outcome, _ in each[BANK:] if outcome is not None] for each in ordered]
        shares = [sum(each) / len(each) for each in rest]
        found.append(
            Chain(
                rollout["problem_id"],
                rollout,
                siblings[rollout["rollout_id"]],
                shares,
                [p * (1 - p) / (len(each) - 1) for p, each in zip(shares, rest, strict=True)],
                [[outcome for outcome, _ in each[:BANK]] for each in ordered],
                [[tokens for _, tokens in each[:BANK]] for each in ordered],
            )
        )
    return found


def drawn(rule: rules.Rule, chain: Chain) -> list[int]:
    """How many completions the rule draws of each prefix."""
    found = []
    for step, outcomes in enumerate(chain.outcomes):
        count = 0
        while more := rule.missing(chain.rollout, step, outcomes[:count]):
            if count + more > len(outcomes):
                raise ValueError("the bank is too small for this rule")
            count += more
        found.append(count)
    return found


@dataclass(frozen=True)
class Result:
    """Per problem: squared error, signed error, prefixes, tokens."""

    squared: np.ndarray
    signed: np.ndarray
    prefixes: np.ndarray
    tokens: np.ndarray

    def mse(self, chosen: np.ndarray | slice = slice(None)) -> float:
        return self.squared[chosen].sum() / self.prefixes[chosen].sum()

    def spent(self, chosen: np.ndarray | slice = slice(None)) -> float:
        return float(self.tokens[chosen].sum())

    def bias(self) -> tuple[float, float]:
        """Mean error and its standard error, problems as units."""
        mean = self.signed.sum() / self.prefixes.sum()
        return mean, float(np.sqrt(((self.signed - mean * self.prefixes) ** 2).sum()) / self.prefixes.sum())


def apply(chains: Sequence[Chain], make: Callable[[Chain], rules.Rule]) -> Result:
    rows = []
    for chain in chains:
        rule = make(chain)
        counts = drawn(rule, chain)
        used = [outcomes[:count] for outcomes, count in zip(chain.outcomes, counts, strict=True)]
        values = [label.value for label in rule.labels(chain.rollout, used)]
        gaps = [v - t for v, t in zip(values, chain.truth, strict=True) if v is not None]
        noise = [n for v, n in zip(values, chain.noise, strict=True) if v is not None]
        spent = sum(sum(tokens[:count]) for tokens, count in zip(chain.tokens, counts, strict=True))
        rows.append((sum(gap * gap for gap in gaps) - sum(noise), sum(gaps), len(gaps), spent))
    return Result(*np.array(rows, dtype=float).T)


def pooled(chains: Sequence[Chain], mean: float) -> Result:
    places = [(chain.siblings, step) for chain in chains for step in range(len(chain.truth))]
    pulls = [allocation.pull(*place) for place in places]
    factor = allocation.rate(pulls, None, mean * len(pulls), BANK)
    return apply(chains, lambda chain: rules.PooledRule(factor, BANK, {chain.rollout["rollout_id"]: chain.siblings}))


def tokens_at(error: float, curve: Sequence[Result], chosen: np.ndarray | slice = slice(None)) -> float:
    """Tokens at which the curve reaches an error; of its cheapest point where that is below, NaN where none is."""
    points = sorted((each.spent(chosen), each.mse(chosen)) for each in curve)
    if points[0][1] <= error:
        return points[0][0]
    for (low, above), (high, below) in itertools.pairwise(points):
        if above >= error >= below:
            share = np.log(above / error) / np.log(above / below) if above > below else 0.0
            return float(low * (high / low) ** share)
    return float("nan")


def study(chains: Sequence[Chain], rounds: int = 200) -> dict:
    exact = {m: apply(chains, lambda chain, m=m: rules.Exact(m)) for m in EXACT}
    curve = {mean: pooled(chains, mean) for mean in MEANS}
    hard, legacy = (apply(chains, lambda chain, kind=kind: kind(BANK if kind is rules.Hard else 11))
                    for kind in (rules.Hard, rules.Legacy))  # fmt: skip
    rng = np.random.default_rng(0)
    # Resampled by problem: chains of one problem go together.
    names = sorted({chain.problem for chain in chains})
    places = {name: [i for i, chain in enumerate(chains) if chain.problem == name] for name in names}

    def ratio(m: int) -> dict:
        def of(chosen: np.ndarray | slice) -> float:
            return tokens_at(exact[m].mse(chosen), list(curve.values()), chosen) / exact[m].spent(chosen)

        again = [
            of(np.concatenate([places[names[i]] for i in rng.integers(len(names), size=len(names))]))
            for _ in range(rounds)
        ]
        low, high = np.nanpercentile(again, [2.5, 97.5])
        return {"ratio": round(of(slice(None)), 3), "low": round(float(low), 3), "high": round(float(high), 3)}

    mean, error = curve[2].bias()
    leg, leg_error = legacy.bias()
    return {
        "prefixes": int(exact[1].prefixes.sum()),
        "at_m2": ratio(2),
        "at_m8": ratio(8),
        "hard": round(hard.spent() / exact[BANK].spent(), 3),
        "pooled_bias": [round(mean, 4), round(error, 4)],
        "legacy_bias": [round(leg, 4), round(leg_error, 4)],
        "curves": {
            "exact": [(each.spent(), each.mse()) for each in exact.values()],
            "pooled": [(each.spent(), each.mse()) for each in curve.values()],
            "hard, any of 16": [(hard.spent(), hard.mse())],
            "legacy": [(legacy.spent(), legacy.mse())],
        },
    }


def plot(found: dict[str, dict], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4.2 * len(found), 3.8), squeeze=False)
    styles = {"exact": "o-", "pooled": "s-", "hard, any of 16": "^", "legacy": "D"}
    for axis, (name, result) in zip(axes[0], found.items(), strict=True):
        for label, points in result["curves"].items():
            axis.plot(*zip(*points, strict=True), styles[label], label=label, markersize=4)
        axis.set(title=name, xscale="log", yscale="log", xlabel="generated tokens", ylabel="mean squared error")
        axis.grid(visible=True, which="both", alpha=0.2)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--plot", type=Path, default=Path("labels.png"))
    options = parser.parse_args()
    found = {}
    if options.workspace:
        found["measured"] = study(measured(options.workspace))
    else:
        found = {name: study(simulated(name, options.problems)) for name in worlds.WORLDS}
    plot(found, options.plot)
    for name, result in found.items():
        print(f"{name}: " + json.dumps({key: value for key, value in result.items() if key != "curves"}))
        for label, points in result["curves"].items():
            print(f"  {label}: " + ", ".join(f"{tokens:.3g} -> {error:.4f}" for tokens, error in points))
    print(
        json.dumps(
            {
                "tokens_at_m2": max(result["at_m2"]["ratio"] for result in found.values()),
                "tokens_at_m8": max(result["at_m8"]["ratio"] for result in found.values()),
                "tokens_hard": max(result["hard"] for result in found.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
