"""An engine without a model, whose every step value is known exactly: the known truth that estimators are tested on.

Each problem is a Markov chain over three states of reasoning, "good", "flawed" and "dead", drawn for that problem from
fixed laws. A chain starts good, moves at each step, and ends in the right answer with a probability that depends on its
last state. The state after each step stands in the step's text, so a prefix determines it, and `value_of` gives the
exact probability of a right answer from any prefix by backward induction.

The text of a chain (tokens are its UTF-8 bytes, so prefixes continue exactly):

    Step 1: The reasoning is good.
    ...
    Step 5: The reasoning is flawed, so the answer is 7.
    Final answer: 7

The right answer is what the prompt says in a mark `[gold=7]`; a prompt without one has the answer `gold_of(prompt)`.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from curate import seeds
from curate.config import Config, did_you_mean, validate
from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.engines.detokenize import join_bytes
from curate.errors import UserError
from curate.sections import EngineConfig

STATES = ("good", "flawed", "dead")
VERSION = "1"
_GOLD = re.compile(r"\[gold=([^\]\n]+)\]")
_STEP = re.compile(r"Step (\d+): The reasoning is (good|flawed|dead)(?:, so the answer is (.+))?\.(?:\n|$)")
_FINAL = re.compile(r"Final answer: (.+)\n?")


class Faults(Config):
    """`engine.args` of the simulated engine: its world, and what goes wrong. All of it is decided by the request."""

    steps: int = 5
    """Steps of a chain."""
    world_seed: int = 0
    """Which problems' chains."""
    error_rate: float = 0.0
    """Share of requests all of whose samples end in "error"."""
    reject_rate: float = 0.0
    """Share of requests that are refused."""
    hang_rate: float = 0.0
    """Share of requests that are never answered."""
    truncation_rate: float = 0.0
    """Share of samples that are cut short and end in "length"."""
    dies_after: int | None = None
    """The engine dies at the request after so many; those under way die with it. A new one starts counting afresh."""
    latency: float = 0.0
    """Mean seconds that a request takes; between a half and one and a half of it, so that answers change places."""


def gold_of(prompt: str) -> str:
    """The right answer of a prompt: of its mark `[gold=...]`, else a number from 0 to 99 that the prompt decides."""
    marked = _GOLD.search(prompt)
    return marked[1].strip() if marked else str(seeds.rng("gold", prompt).randrange(100))


@dataclass(frozen=True)
class World:
    """The chain of one problem: `moves[a][b]` the probability from state a to b at a step, `success[a]` at the end."""

    steps: int
    moves: tuple[tuple[float, float, float], ...]
    success: tuple[float, float, float]
    gold: str

    @classmethod
    def of(cls, prompt: str, steps: int = 5, world_seed: int = 0) -> World:
        """The world of a prompt: falls Beta(1, 7), recoveries Beta(1.2, 8), deaths Beta(1, 5), slips Beta(.6, 4)."""
        rng = seeds.rng("world", world_seed, prompt)
        fall, recover = rng.betavariate(1, 7), rng.betavariate(1.2, 8)
        die = (1 - recover) * rng.betavariate(1, 5)
        slip, luck = rng.betavariate(0.6, 4), rng.betavariate(0.5, 8)
        moves = ((1 - fall, fall, 0.0), (recover, 1 - recover - die, die), (0.0, 0.0, 1.0))
        return cls(steps, moves, (1 - slip, 0.35 * (1 - slip), luck), gold_of(prompt))

    def values(self) -> list[tuple[float, ...]]:
        """[steps + 1][3]: probability of a right answer after t steps in each state, before the answer is said."""
        tables: list[tuple[float, ...]] = [self.success]
        for _ in range(self.steps):
            later = tables[-1]
            tables.append(tuple(sum(p * v for p, v in zip(row, later, strict=True)) for row in self.moves))
        return tables[::-1]

    def value_of(self, prefix: str) -> float:
        """Exact probability of a right answer after `prefix`, which ends with a whole step; 0 or 1 once it is said."""
        done, state, answer = self.read(prefix)
        if answer is not None:
            return float(answer == self.gold)
        return self.values()[done][state]

    def read(self, prefix: str) -> tuple[int, int, str | None]:
        """(steps done, state, answer or null) of a prefix; RequestRejected when it is no run of whole steps."""
        place = done = state = 0
        answer = None
        while place < len(prefix) and (step := _STEP.match(prefix, place)):
            done, state, answer, place = done + 1, STATES.index(step[2]), step[3], step.end()
            if int(step[1]) != done or done > self.steps or (answer is not None) != (done == self.steps):
                break
        else:
            final = _FINAL.fullmatch(prefix, place)
            if place == len(prefix) or (answer is not None and final and final[1] == answer):
                return done, state, answer
        raise RequestRejected("the prefix does not consist of whole steps of this problem")

    def continue_(self, prefix: str, rng: random.Random) -> tuple[str, float]:
        """The rest of a chain, and its log-probability."""
        done, state, answer = self.read(prefix)
        lines, logprob = [], 0.0
        for step in range(done + 1, self.steps + 1):
            cumulative = list(accumulate(self.moves[state]))
            after = min(bisect_right(cumulative, rng.random() * cumulative[-1]), 2)
            logprob += math.log(self.moves[state][after])
            state = after
            tail = "."
            if step == self.steps:
                right = rng.random() < self.success[state]
                logprob += math.log(self.success[state] if right else 1 - self.success[state])
                answer = self.gold if right else self._wrong(rng)
                tail = f", so the answer is {answer}."
            lines.append(f"Step {step}: The reasoning is {STATES[state]}{tail}")
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


class SimulatedEngine:
    """Answers at once, from the `World` of each prompt; `config.args` are the fields of `Faults`.

    The same request has the same answer and the same fault in every run and in any order. Pictures and the sampling
    fields other than `max_tokens` (bytes) are ignored.
    """

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        for name in config.args:
            if name not in Faults.model_fields:
                known = did_you_mean(name, list(Faults.model_fields))
                raise UserError(f'The simulated engine has no argument "{name}"{known}')
        self._faults = validate(Faults, dict(config.args), "engine.args")
        self._note = on_note
        self._asked = 0
        self._dead = asyncio.Event()

    async def __aenter__(self) -> SimulatedEngine:
        """Ready at once."""
        self._note("Engine: simulated chains with known step values; no model is used.")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Whatever hangs ends with EngineDead."""
        self._dead.set()

    def versions(self) -> dict[str, str]:
        """Version of the world's laws."""
        return {"simulated": VERSION}

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order; faults as configured."""
        self._asked += 1
        if self._faults.dies_after is not None and self._asked > self._faults.dies_after:
            self._dead.set()
        await self._wait(request)
        if self._dead.is_set():
            raise EngineDead("the simulated engine died")
        if self._hits("reject", self._faults.reject_rate, request):
            raise RequestRejected("simulated refusal")
        prefix, world = self._prefix(request), self.world(request.prompt)
        world.read(prefix)
        broken = self._hits("error", self._faults.error_rate, request)
        return [self._sample(request, world, prefix, request.seed + index, broken) for index in range(request.n)]

    def world(self, prompt: str) -> World:
        """The world of a prompt, with this engine's settings."""
        return World.of(prompt, self._faults.steps, self._faults.world_seed)

    def _prefix(self, request: Request) -> str:
        try:
            return bytes(request.prefix_ids).decode() if request.prefix_ids else request.prefix_text
        except ValueError:
            raise RequestRejected("the prefix ids are not UTF-8 bytes") from None

    def _hits(self, fault: str, rate: float, request: Request) -> bool:
        return rate > 0 and seeds.rng(fault, request.seed, request.prompt, list(request.prefix_ids)).random() < rate

    async def _wait(self, request: Request) -> None:
        """Its latency, or for ever; cut short by death."""
        hangs = self._hits("hang", self._faults.hang_rate, request)
        share = 0.5 + seeds.rng("latency", request.seed, request.prompt).random()
        seconds = None if hangs else self._faults.latency * share
        try:
            async with asyncio.timeout(seconds):
                await self._dead.wait()
        except TimeoutError:
            return

    def _sample(self, request: Request, world: World, prefix: str, seed: int, broken: bool) -> Sample:
        prompt_tokens = len(request.prompt.encode()) + len(prefix.encode())
        if broken:
            return Sample("", (), (), "error", None, prompt_tokens, "simulated error")
        rng = seeds.rng("chain", seed, request.prompt, prefix)
        text, logprob = world.continue_(prefix, rng)
        data, finish = text.encode(), "stop"
        limit = request.sampling.max_tokens
        if data and rng.random() < self._faults.truncation_rate:
            limit = min(limit, rng.randrange(len(data)))
        if len(data) > limit:
            data, finish = data[:limit], "length"
        whole, ends = join_bytes([bytes([byte]) for byte in data])
        # Of a chain that was cut, only the whole's probability is known.
        mean = logprob / (len(data) + 1) if finish == "stop" else None
        return Sample(whole, list(data), ends, finish, mean, prompt_tokens)


def value_of(prompt: str, prefix: str, steps: int = 5, world_seed: int = 0) -> float:
    """Exact probability that a chain for `prompt` that begins with `prefix` ends in the right answer."""
    return World.of(prompt, steps, world_seed).value_of(prefix)


def token_ids(text: str) -> Sequence[int]:
    """The token ids of a text: its UTF-8 bytes."""
    return list(text.encode())
