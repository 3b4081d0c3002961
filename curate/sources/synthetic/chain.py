"""Chains of the synthetic tasks: write one, with or without slips, and judge any chain that a model wrote, exactly."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Collection, Sequence

from curate.sources.synthetic.base import F, Slots, SyntheticStep, SyntheticTask

NUM_STEPS = 5
_HEADING = re.compile(r"\s*Step\s+(\d+)\s*:\s*(.*?)\s*", re.DOTALL)
_FINAL = re.compile(r"\s*Final answer\s*:\s*(\S.*?)\s*", re.DOTALL)


def _fill(step: SyntheticStep[F], facts: F, written: Slots, slip: random.Random | None) -> Slots:
    slots = step.fill(facts, written)
    if slip is None:
        return slots
    options = []
    for slot, near in step.near.items():
        options += [(slot, value) for value in near(facts, written | slots) if value != slots[slot]]
    if options:
        slot, value = slip.choice(options)
        slots = slots | {slot: value}
    return slots


def solve(
    task: SyntheticTask[F], facts: F, slips: Collection[int] = (), rng: random.Random | None = None
) -> list[Slots]:
    """Slots of the five steps; the steps in `slips` (0 to 4) are written wrong where they can be, and carried on."""
    rng = rng or random.Random(0)
    written: Slots = {}
    chain = []
    for index, step in enumerate(task.steps):
        slots = _fill(step, facts, written, rng if index in slips else None)
        written |= slots
        chain.append(slots)
    return chain


def gold(task: SyntheticTask[F], facts: F) -> str:
    """The right answer."""
    return solve(task, facts)[-1]["answer"]


def render(task: SyntheticTask[F], chain: Sequence[Slots], final: str | None = None) -> str:
    """The chain as text: five `Step k:` lines and the `Final answer:` line (`final`, else the last step's answer)."""
    lines = [
        f"Step {number}: {step.template.format(**slots)}"
        for number, (step, slots) in enumerate(zip(task.steps, chain, strict=True), start=1)
    ]
    return "\n".join([*lines, f"Final answer: {final or chain[-1]['answer']}"])


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>.+?)" for i, p in enumerate(parts)))


def judge(task: SyntheticTask[F], facts: F, steps: Sequence[str]) -> list[bool]:
    """Truth of each step of a generated chain, one bool a step.

    A step is right when its text parses by the task's template for that position and says exactly what the facts say.
    The text of the last step includes the `Final answer:` line, which must be right too. Text that does not parse, a
    step number out of order and a sixth step are wrong; absence of a step is seen by the length.
    """
    truth = solve(task, facts)
    verdicts = []
    for index, text in enumerate(steps):
        if index >= NUM_STEPS:
            verdicts.append(False)
            continue
        body, _, final = text.partition("\nFinal answer:")
        heading = _HEADING.fullmatch(body)
        right = heading is not None and int(heading[1]) == index + 1
        if heading is not None and right:
            parsed = _pattern(task.steps[index].template).fullmatch(heading[2])
            right = parsed is not None and parsed.groupdict() == truth[index]
        if index == NUM_STEPS - 1:
            right = right and final.strip() == truth[-1]["answer"]
        verdicts.append(right)
    return verdicts
