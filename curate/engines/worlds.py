"""Laws of chains of thought whose every step value is known exactly: what the simulated engine speaks.

The worlds of the estimators' study: `states` (a latent good, flawed or dead chain that can recover), `drift` (the
chance of success moves a little at each step), `decisive` (one step decides), and `longer` (as `states`, and chains
that went wrong go on longer). In all of them the chance of a right answer after a step stands in the step's text, as a
state or as a number, so a prefix determines it, and it is a martingale: its mean over the next step is itself.

    Step 1: The reasoning is good.
    ...
    Step 5: The reasoning is flawed, so the answer is 7.
    Final answer: 7

The right answer is what the prompt says in a mark `[gold=7]`; a prompt without one has the answer `gold_of(prompt)`.
"""

from __future__ import annotations

import math
import random
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from itertools import accumulate

from curate import seeds
from curate.engines.base import RequestRejected

STATES = ("good", "flawed", "dead")
MAX_STEPS = 12
_GOLD = re.compile(r"\[gold=([^\]\n]+)\]")
_STEP = re.compile(
    r"Step (\d+): The (?:reasoning is (good|flawed|dead)|chance is (\d\.\d{6}))(?:, so the answer is (.+))?\.(?:\n|$)"
)
_FINAL = re.compile(r"Final answer: (.+)\n?")


def gold_of(prompt: str) -> str:
    """The right answer of a prompt: of its mark `[gold=...]`, else a number from 0 to 99 that the prompt decides."""
    marked = _GOLD.search(prompt)
    return marked[1].strip() if marked else str(seeds.rng("gold", prompt).randrange(100))


def sound(step: str, prompt: str) -> bool:
    """Whether a step is right by its own words: good, or with an even chance at least; if it says an answer, whether
    that is the one of the prompt's mark, where it has one. RequestRejected when it is no step of a world.
    """
    found, marked = _STEP.search(step), _GOLD.search(prompt)
    if found is None:
        raise RequestRejected("a step is none of a simulated chain")
    if found[4] is not None and marked is not None:
        return found[4] == marked[1].strip()
    return found[2] == "good" if found[2] else float(found[3]) >= 0.5


def _length(rng: random.Random, steps: int | None) -> int:
    """Steps of a problem's chains: as set, else 3 + Poisson(3), at most `MOST_STEPS`."""
    if steps is not None:
        return steps
    count, product = -1, 1.0
    while product > math.exp(-3):
        count, product = count + 1, product * rng.random()
    return min(3 + count, MAX_STEPS)


class World(ABC):
    """The chains of one problem; `state` is what a step's text says."""

    def __init__(self, gold: str) -> None:
        self.gold = gold

    @abstractmethod
    def start(self) -> str:
        """The state before the first step."""

    @abstractmethod
    def move(self, state: str, done: int, rng: random.Random) -> tuple[str, float | None]:
        """(state after step `done` + 1, its log-probability where it has one)."""

    @abstractmethod
    def ends(self, state: str, done: int) -> float:
        """Probability that a chain ends with step `done`, when that led to this state."""

    @abstractmethod
    def success(self, state: str) -> float:
        """Probability that a chain that ends in this state says the right answer."""

    @abstractmethod
    def value(self, state: str, done: int) -> float:
        """Probability of a right answer after `done` steps, before an answer is said."""

    def spell(self, state: str) -> str:
        """A state in a step's text."""
        return f"reasoning is {state}"

    def value_of(self, prefix: str) -> float:
        """Exact probability of a right answer after `prefix`, which ends with a whole step; 0 or 1 once it is said."""
        done, state, answer = self.read(prefix)
        return float(answer == self.gold) if answer is not None else self.value(state, done)

    def read(self, prefix: str) -> tuple[int, str, str | None]:
        """(steps done, state, answer or null) of a prefix; RequestRejected when it is no run of whole steps."""
        place = done = 0
        state, answer = self.start(), None
        while place < len(prefix) and (step := _STEP.match(prefix, place)):
            done, state, answer, place = done + 1, step[2] or step[3], step[4], step.end()
            end = self.ends(state, done)
            if int(step[1]) != done or (answer is None and end == 1) or (answer is not None and end == 0):
                break
            if answer is not None:
                final = _FINAL.fullmatch(prefix, place)
                if place == len(prefix) or (final and final[1] == answer):
                    return done, state, answer
                break
        else:
            if place == len(prefix):
                return done, state, answer
        raise RequestRejected("the prefix does not consist of whole steps of this problem")

    def continue_(self, prefix: str, rng: random.Random) -> tuple[str, float | None]:
        """The rest of a chain, and its log-probability where the world has one."""
        done, state, answer = self.read(prefix)
        lines: list[str] = []
        logprob: float | None = 0.0
        while answer is None:
            state, moved = self.move(state, done, rng)
            logprob = None if logprob is None or moved is None else logprob + moved
            done, end, tail = done + 1, self.ends(state, done + 1), "."
            if end == 1 or (end > 0 and rng.random() < end):
                right = rng.random() < self.success(state)
                if logprob is not None:
                    logprob += math.log(self.success(state) if right else 1 - self.success(state)) + math.log(end)
                answer = self.gold if right else self._wrong(rng)
                tail = f", so the answer is {answer}."
            elif end > 0 and logprob is not None:
                logprob += math.log(1 - end)
            lines.append(f"Step {done}: The {self.spell(state)}{tail}")
        if not _FINAL.search(prefix):
            lines.append(f"Final answer: {answer}")
        joint = "\n" if lines and prefix and not prefix.endswith("\n") else ""
        return joint + "\n".join(lines), logprob

    def _wrong(self, rng: random.Random) -> str:
        if re.fullmatch(r"-?\d+", self.gold):
            return str(int(self.gold) + rng.choice((-3, -2, -1, 1, 2, 3)))
        if re.fullmatch(r"[A-E]", self.gold):
            return rng.choice([letter for letter in "ABCDE" if letter != self.gold])
        return {"yes": "no", "no": "yes"}.get(self.gold.lower(), f"not {self.gold}")


class States(World):
    """Good, flawed, dead: falls Beta(1, 7), recoveries Beta(1.2, 8), deaths Beta(1, 5), slips Beta(.6, 4)."""

    def __init__(self, prompt: str, steps: int | None, world_seed: int) -> None:
        super().__init__(gold_of(prompt))
        rng = seeds.rng("world", world_seed, prompt)
        fall, recover = rng.betavariate(1, 7), rng.betavariate(1.2, 8)
        die = (1 - recover) * rng.betavariate(1, 5)
        slip, luck = rng.betavariate(0.6, 4), rng.betavariate(0.5, 8)
        self.moves = {
            "good": (1 - fall, fall, 0.0),
            "flawed": (recover, 1 - recover - die, die),
            "dead": (0.0, 0.0, 1.0),
        }
        self.chances = {"good": 1 - slip, "flawed": 0.35 * (1 - slip), "dead": luck}
        self.steps = self.max_steps(rng, steps)
        self._tables: dict[int, dict[str, float]] = {}

    def max_steps(self, rng: random.Random, steps: int | None) -> int:
        """No chain has more."""
        return _length(rng, steps)

    def start(self) -> str:
        """Every chain starts good."""
        return "good"

    def move(self, state: str, done: int, rng: random.Random) -> tuple[str, float | None]:
        """By the law of the state."""
        cumulative = list(accumulate(self.moves[state]))
        after = min(bisect_right(cumulative, rng.random() * cumulative[-1]), 2)
        return STATES[after], math.log(self.moves[state][after])

    def ends(self, state: str, done: int) -> float:
        """With the last step."""
        return float(done >= self.steps)

    def success(self, state: str) -> float:
        """By the state."""
        return self.chances[state]

    def value(self, state: str, done: int) -> float:
        """By backward induction."""
        return self._table(done)[state]

    def _table(self, done: int) -> dict[str, float]:
        if done not in self._tables:
            step = done + 1

            def after(state: str) -> float:
                end = self.ends(state, step)
                return end * self.chances[state] + ((1 - end) * self._table(step)[state] if end < 1 else 0.0)

            later = [after(state) for state in STATES]
            self._tables[done] = {
                state: sum(p * v for p, v in zip(row, later, strict=True)) for state, row in self.moves.items()
            }
        return self._tables[done]


class Longer(States):
    """A world like `States`, in which a chain ends earlier where it is good: wrong chains are longer."""

    def max_steps(self, rng: random.Random, steps: int | None) -> int:
        """The largest number of steps that a chain may have."""
        return steps or MAX_STEPS

    def ends(self, state: str, done: int) -> float:
        """From the third step on, by the state."""
        if done >= self.steps:
            return 1.0
        return 0.0 if done < 3 else {"good": 0.35, "flawed": 0.15, "dead": 0.08}[state]


class _Chance(World):
    """Worlds whose steps say the chance itself."""

    def __init__(self, prompt: str, steps: int | None, world_seed: int, first: float, rng: random.Random) -> None:
        super().__init__(gold_of(prompt))
        self.first = _rounded(first)
        self.steps = _length(rng, steps)

    def start(self) -> str:
        """The problem's own chance."""
        return self.first

    def spell(self, state: str) -> str:
        """A number."""
        return f"chance is {state}"

    def ends(self, state: str, done: int) -> float:
        """With the last step."""
        return float(done >= self.steps)

    def success(self, state: str) -> float:
        """What the step says."""
        return float(state)

    def value(self, state: str, done: int) -> float:
        """What the step says: it is a martingale."""
        return float(state)


def _rounded(chance: float) -> str:
    return f"{min(max(chance, 0.0), 1.0):.6f}"


class Drift(_Chance):
    """Many small moves: p' is Beta(k p, k (1 - p)) with k of 90, 12 or 1.2."""

    def __init__(self, prompt: str, steps: int | None, world_seed: int) -> None:
        rng = seeds.rng("drift", world_seed, prompt)
        shape = rng.choices(((0.5, 3), (1.3, 1.3), (5, 0.8)), (0.3, 0.4, 0.3))[0]
        super().__init__(prompt, steps, world_seed, rng.betavariate(*shape), rng)

    def move(self, state: str, done: int, rng: random.Random) -> tuple[str, float | None]:
        """A density, so it has no log-probability."""
        chance, sharp = float(state), rng.choices((90, 12, 1.2), (0.7, 0.2, 0.1))[0]
        # At the ends, where it stays.
        if not 1e-4 < chance < 1 - 1e-4:
            return state, None
        return _rounded(rng.betavariate(sharp * chance, sharp * (1 - chance))), None


class Decisive(_Chance):
    """One step, any of them alike, takes the chance up or down by a share of Beta(8, 1) of the way."""

    def __init__(self, prompt: str, steps: int | None, world_seed: int) -> None:
        rng = seeds.rng("decisive", world_seed, prompt)
        super().__init__(prompt, steps, world_seed, rng.betavariate(0.9, 0.7), rng)

    def move(self, state: str, done: int, rng: random.Random) -> tuple[str, float | None]:
        """One of the steps that are left, unless it was before."""
        chance = float(state)
        if state != self.first or rng.random() >= 1 / (self.steps - done):
            return state, None
        way = rng.betavariate(8, 1)
        return _rounded(chance + (1 - chance) * way if rng.random() < chance else chance * (1 - way)), None


WORLDS: dict[str, type[States] | type[Drift] | type[Decisive]] = {
    "states": States,
    "longer": Longer,
    "drift": Drift,
    "decisive": Decisive,
}


def world(prompt: str, name: str = "states", steps: int | None = 5, world_seed: int = 0) -> World:
    """The world of this name for a prompt; `steps` null draws the length of the problem's chains."""
    return WORLDS[name](prompt, steps, world_seed)
