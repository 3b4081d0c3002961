"""Several servers: which one is asked next, which one rests, and which one has stopped making progress."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from curate.engines.server.request import Dialect

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# A server that fails so many times in a row is set aside.
STRIKES = 3
_MAX_REST = 600.0
_MAX_RETRY_AFTER = 600.0


@dataclass
class Endpoint:
    """One server: what is under way there, and how it has been doing. Times are of `time.monotonic`."""

    url: str
    client: AsyncOpenAI
    tries: set[asyncio.Timeout] = field(default_factory=set)
    strikes: int = 0
    """Failures since the last answer."""
    rests: int = 0
    """Times set aside since the last answer."""
    aside_until: float = 0.0
    not_before: float = 0.0
    """When it wants to be asked again, by its own `Retry-After`."""
    moved: float = 0.0
    """When it last brought a token, or was given the first request of those under way."""
    stalled: float = -1.0
    """When it was last found to stand still."""
    streams: bool = True
    """Whether its last answer came as a stream; what a server is at that answers whole cannot be seen."""
    dialect: Dialect = field(default_factory=Dialect)
    """What it takes."""
    proven: bool = False
    """Whether it has answered a request: it takes what is asked of it."""
    goes_on: bool = False
    """Whether it was seen to go on from a given beginning."""
    repeats: bool = False
    """Whether it says that beginning again before it goes on."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is found out whether it goes on."""
    said: set[str] = field(default_factory=set)
    """What the user was told about it, to be told once."""

    @property
    def name(self) -> str:
        """The address, without user names, passwords and keys that it may hold."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def begin(self, deadline: asyncio.Timeout) -> None:
        """A request goes there."""
        if not self.tries:
            self.moved = time.monotonic()
        self.tries.add(deadline)

    def rest_for(self, seconds: float) -> None:
        """Rest: the server asked for a pause of so many seconds."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    def ready(self, now: float) -> bool:
        """Whether it may be asked; one that was set aside is tried out by one request at first."""
        return now >= max(self.not_before, self.aside_until) and (self.strikes < STRIKES or not self.tries)


class Endpoints:
    """The servers of an engine. `rest` seconds is how long one is set aside at first, doubled each time."""

    def __init__(self, every: Sequence[Endpoint], rest: float, note: Callable[[str], None]) -> None:
        self.every, self._rest, self._note = every, rest, note

    async def pick(self, failed: Endpoint | None) -> Endpoint:
        """The server with the fewest requests under way, not the one that just failed; waits where all ask for it.

        When all were set aside, the one that comes back first: the requests' own waits pace it then.
        """
        while True:
            now = time.monotonic()
            ready = [each for each in self.every if each.ready(now)]
            if ready:
                return min(ready, key=lambda each: (each is failed, len(each.tries)))
            sound = [each for each in self.every if each.strikes < STRIKES]
            open_ones = [] if sound else [each for each in self.every if each.not_before <= now]
            if open_ones:
                return min(open_ones, key=lambda each: (each.aside_until, len(each.tries)))
            wait = min(each.not_before for each in sound or self.every) - now
            # Not all at the same instant.
            await asyncio.sleep(wait + random.random() * min(1.0, wait / 4))

    def answered(self, place: Endpoint) -> None:
        """Note that the server gave an answer that can be used."""
        if place.strikes >= STRIKES:
            self._note(f"The server {place.name} answers again.")
        place.strikes, place.rests, place.moved, place.proven = 0, 0, time.monotonic(), True

    def tell(self, place: Endpoint, what: str, why: str = "") -> None:
        """Tell the user something about a server, once."""
        if what not in place.said:
            place.said.add(what)
            self._note(f"The server {place.name} {what}{why}.")

    def failed(self, place: Endpoint, why: str, strikes: int = 1) -> None:
        """Note a failure; after `STRIKES` failures in a row the server is set aside for a while."""
        now = time.monotonic()
        place.strikes += strikes
        if place.strikes < STRIKES or now < place.aside_until:
            return
        rest = min(_MAX_REST, self._rest * 2**place.rests)
        place.rests, place.aside_until = place.rests + 1, now + rest
        if place.rests == 1:
            fate = f"set aside and tried again in {rest:g} s" if len(self.every) > 1 else "asked again more slowly"
            self._note(f"The server {place.name} fails ({why[:200]}); it is {fate}.")

    async def watch(self, stall: float) -> None:
        """For ever: end the requests of a server that has had some and brought no token for `stall` seconds."""
        pause = min(1.0, stall / 4)
        while True:
            before = time.monotonic()
            await asyncio.sleep(pause)
            now = time.monotonic()
            late = now - before - pause
            for place in self.every:
                # This process stood still itself: what the servers sent meanwhile is yet to be read.
                place.moved += late if late > pause else 0.0
                if place.streams and place.tries and now - place.moved > stall:
                    place.stalled = now
                    self.failed(place, f"no token for {stall:g} s", STRIKES)
                    for deadline in place.tries:
                        if not deadline.expired():
                            deadline.reschedule(asyncio.get_running_loop().time())
                    place.moved = now


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, given as seconds or as a date; null where there is none."""
    given = headers.get("retry-after", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if seconds == seconds else None
