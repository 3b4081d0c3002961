"""An engine without a model, whose every step value is known exactly: the known truth that estimators are tested on.

What it says is drawn from a `World` of `curate.engines.worlds`. Tokens are UTF-8 bytes, so prefixes continue exactly.
A prompt that shows a simulated chain in numbered paragraphs asks it to judge, which it does with known error rates.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from curate import seeds
from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.engines.detokenize import join_bytes
from curate.engines.worlds import World, sound, world
from curate.errors import UserError, did_you_mean
from curate.recipe.parsing import Config, validate
from curate.recipe.sections import EngineConfig

VERSION = "2"
# Draws a text and its log-probability, where it has one.
Speaker = Callable[[random.Random], tuple[str, float | None]]
_SHOWN = re.compile(r"<paragraph_\d+>\n(.*?)\n</paragraph_\d+>", re.DOTALL)


class Faults(Config):
    """Sets the world of the simulated engine and the faults that it plays. Which requests are hit is decided by the
    request itself.
    """

    world: Literal["states", "longer", "drift", "decisive"] = "states"
    """How the chance of a right answer moves from step to step. `states`: a hidden state (good, flawed or dead) that
    can recover. `longer`: the same, and chains that went wrong are longer. `drift`: the chance moves a little at each
    step. `decisive`: one step decides."""
    steps: int | None = 5
    """Number of steps per chain (in `longer` the maximum); `null` draws it for each problem."""
    world_seed: int = 0
    """Seed of the chains."""
    error_rate: float = 0.0
    """Share of requests whose samples all end in `error`."""
    reject_rate: float = 0.0
    """Share of requests that are refused."""
    hang_rate: float = 0.0
    """Share of requests that are never answered."""
    hang_once: str | None = None
    """File that the first hanging request creates. An engine that starts where the file exists does not hang, so that a
    restart helps."""
    truncation_rate: float = 0.0
    """Share of samples that are cut short and end in `length`."""
    dies_after: int | None = None
    """The engine dies at the request after this many, together with the requests in progress. A new engine counts from
    0 again."""
    false_alarm: float = 0.0
    """Probability that the engine as a judge calls a right step wrong."""
    miss: float = 0.0
    """Probability that the engine as a judge calls a wrong step right."""
    unreadable: float = 0.0
    """Share of the answers as a judge that contain no verdict."""
    latency: float = 0.0
    """Mean duration of a request in seconds. Each takes between half and one and a half of it, so that answers arrive
    in another order."""


class SimulatedEngine:
    """Answers at once, from the `World` of each prompt; `config.args` are the fields of `Faults`.

    The same request has the same answer and the same fault in every run and in any order. Images and the sampling
    fields other than `max_tokens` (bytes) are ignored.
    """

    uses = frozenset[str]()

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        for name in config.args:
            if name not in Faults.model_fields:
                known = did_you_mean(name, list(Faults.model_fields))
                raise UserError(f'The simulated engine has no argument "{name}"{known}')
        self._faults = validate(Faults, dict(config.args), "engine.args")
        self._note = on_note
        once = self._faults.hang_once
        self._hang_rate = 0.0 if once is not None and Path(once).exists() else self._faults.hang_rate
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
        prefix, say = self._prefix(request), self._speaker(request)
        broken = self._hits("error", self._faults.error_rate, request)
        return [self._sample(request, say, prefix, request.seed + index, broken) for index in range(request.n)]

    def _speaker(self, request: Request) -> Speaker:
        """A judge of the chain that the prompt shows; the prompt's world where it shows none."""
        if shown := _SHOWN.findall(request.prompt):
            right = [sound(step, request.prompt) for step in shown]
            return lambda rng: (self._judged(right, rng), None)
        prefix, chains = self._prefix(request), self.world(request.prompt)
        chains.read(prefix)
        return lambda rng: chains.continue_(prefix, rng)

    def _judged(self, right: Sequence[bool], rng: random.Random) -> str:
        """A judge's answer: the first step that it takes for wrong, each on its own, by the error rates."""
        lines = []
        unreadable = rng.random() < self._faults.unreadable
        for place, ok in enumerate(right):
            wrong = rng.random() < (self._faults.false_alarm if ok else 1 - self._faults.miss)
            lines.append(f"Paragraph {place} is {'wrong' if wrong else 'right'}.")
            if wrong:
                break
        else:
            place = -1
        lines.append("I cannot tell." if unreadable else f"\\boxed{{{place}}}")
        return "\n".join(lines)

    def world(self, prompt: str) -> World:
        """The world of a prompt, with this engine's settings."""
        return world(prompt, self._faults.world, self._faults.steps, self._faults.world_seed)

    def _prefix(self, request: Request) -> str:
        try:
            return bytes(request.prefix_ids).decode() if request.prefix_ids else request.prefix_text
        except ValueError:
            raise RequestRejected("the prefix ids are not UTF-8 bytes") from None

    def _hits(self, fault: str, rate: float, request: Request) -> bool:
        return rate > 0 and seeds.rng(fault, request.seed, request.prompt, list(request.prefix_ids)).random() < rate

    async def _wait(self, request: Request) -> None:
        """Wait for the latency of a request, or for ever; cut short by death."""
        hangs = self._hits("hang", self._hang_rate, request)
        if hangs and self._faults.hang_once is not None:
            Path(self._faults.hang_once).touch()
        share = 0.5 + seeds.rng("latency", request.seed, request.prompt).random()
        seconds = None if hangs else self._faults.latency * share
        try:
            async with asyncio.timeout(seconds):
                await self._dead.wait()
        except TimeoutError:
            return

    def _sample(self, request: Request, say: Speaker, prefix: str, seed: int, broken: bool) -> Sample:
        prompt_tokens = len(request.prompt.encode()) + len(prefix.encode())
        if broken:
            return Sample("", (), (), "error", None, prompt_tokens, "simulated error")
        rng = seeds.rng("chain", seed, request.prompt, prefix)
        text, logprob = say(rng)
        data, finish = text.encode(), "stop"
        limit = request.sampling.max_tokens
        if data and rng.random() < self._faults.truncation_rate:
            limit = min(limit, rng.randrange(len(data)))
        if len(data) > limit:
            data, finish = data[:limit], "length"
        whole, ends = join_bytes([data[place : place + 1] for place in range(len(data))])
        # Of a chain that was cut, only the whole's probability is known.
        mean = logprob / (len(data) + 1) if finish == "stop" and logprob is not None else None
        return Sample(whole, list(data), ends, finish, mean, prompt_tokens)


def token_ids(text: str) -> Sequence[int]:
    """The token ids of a text: its UTF-8 bytes."""
    return list(text.encode())
