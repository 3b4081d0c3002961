"""The server engine against real servers on loopback that fail in every way: samples or one rejection, never a loss."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from server_testbed import Call, Fault, Server, ask, chunks, expected, piece, right, served, text_of, texts

from curate import pipeline
from curate.engines import build
from curate.engines.base import RequestRejected, Sample
from curate.engines.server import endpoints
from curate.recipe.sections import EngineConfig
from curate.runtime.reporter import Silent
from curate.tables.schema import ROLLOUTS
from curate.tables.store import Store

pytest.importorskip("openai")


def right_but_whole(call: Call) -> None:
    choices = [
        {"index": i, "message": {"content": text_of(call.body["seed"] + i)}, "finish_reason": "stop"}
        for i in range(call.body["n"])
    ]
    call.whole({"choices": choices, "usage": {"prompt_tokens": 9}})


def cut_with_a_promise(call: Call) -> None:
    call.head(Content_Length=10**6)
    call.send(*chunks(call.body)[:7])


def cut_without_one(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body)[:-3])


def hang_at_once(call: Call) -> None:
    call.hang()


def hang_half_way(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body)[:7])
    call.hang()


def comments_only(call: Call) -> None:
    call.head()
    while not call.over.wait(0.05):
        try:
            call.handler.wfile.write(b": processing\n\n")
            call.handler.wfile.flush()
        except OSError:
            return


def garbage(call: Call) -> None:
    call.head()
    call.handler.wfile.write(b"data: {not json\n\n")


def garbage_whole(call: Call) -> None:
    call.whole(b"<html>busy</html>")


def other_shape(call: Call) -> None:
    call.whole({"choices": [{"index": 0, "message": "text", "finish_reason": "stop"}]})


def no_unicode(call: Call) -> None:
    call.whole(b'{"choices": [{"index": 0, "message": {"content": "\\ud800"}, "finish_reason": "stop"}]}')


def empty_text(call: Call) -> None:
    call.head()
    call.send(
        *({"choices": [{"index": i, "delta": {"content": ""}, "finish_reason": "stop"}]} for i in range(call.body["n"]))
    )


def one_too_few(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body, call.body["n"] - 1))


def one_too_many(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body, call.body["n"] + 1))


def dies_in_the_stream(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body)[:5], {"error": {"message": "engine died", "code": 500}})


def aborted(call: Call) -> None:
    call.head()
    call.send(*chunks(call.body)[:5], {"choices": [piece(i, finish="abort") for i in range(call.body["n"])]})


def status(code: int, **headers: object) -> Fault:
    def answer(call: Call) -> None:
        call.fail(code, **headers)

    answer.__name__ = f"http_{code}"
    return answer


PASSING = [
    status(429, Retry_After=0), status(429), status(500), status(503, Retry_After="soon"), cut_with_a_promise,
    cut_without_one, hang_at_once, hang_half_way, comments_only, garbage, garbage_whole, other_shape, no_unicode,
    empty_text, one_too_few, one_too_many, dies_in_the_stream, aborted, right_but_whole,
]  # fmt: skip


@pytest.fixture
def server() -> Iterator[Callable[[Fault], Server]]:
    open_ones: list[Server] = []

    def make(script: Fault) -> Server:
        open_ones.append(Server(script))
        return open_ones[-1]

    yield make
    for each in open_ones:
        each.close()


def test_a_stream_has_all_that_a_whole_answer_has(server: Callable[[Fault], Server]) -> None:
    there = server(right)
    (samples,) = served([there.url], [ask(2)])
    text = text_of(513)
    assert samples[1] == Sample(text, [ord(each) for each in text], list(range(1, len(text) + 1)), "stop", -0.25, 9)
    assert there.bodies[0]["stream"] is True and there.bodies[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.__name__)
def test_a_fault_that_passes_changes_no_sample(server: Callable[[Fault], Server], fault: Fault) -> None:
    """Every other call fails, until each request was answered: the same samples as from a sound server."""
    there = server(lambda call: fault(call) if call.number % 2 else right(call))
    requests = [ask(number) for number in range(6)]
    answers = served([there.url], requests, retries=12)
    assert [texts(answer) for answer in answers] == [expected(request) for request in requests]
    # What was left out of an answer is asked for by itself, with its own seed.
    assert {body["seed"] & ~0xFF for body in there.bodies} == {request.seed for request in requests}


@pytest.mark.parametrize(
    "fault", [each for each in PASSING if each is not right_but_whole], ids=lambda each: each.__name__
)
def test_a_fault_that_stays_rejects_the_request(server: Callable[[Fault], Server], fault: Fault) -> None:
    there = server(fault)
    for answer in served([there.url], [ask(0), ask(1)], retries=2):
        assert isinstance(answer, RequestRejected)
        assert "3 times" in str(answer)


@pytest.mark.parametrize(
    "fault", [each for each in PASSING if each is not right_but_whole], ids=lambda each: each.__name__
)
def test_one_bad_server_of_three_costs_no_request(server: Callable[[Fault], Server], fault: Fault) -> None:
    bad, *good = server(fault), server(right), server(right)
    requests = [ask(number) for number in range(30)]
    answers = served([bad.url, *(each.url for each in good)], requests, retries=3)
    assert [texts(answer) for answer in answers] == [expected(request) for request in requests]


def test_a_refusal_is_asked_once_and_elsewhere_where_it_is_the_servers_fault(server: Callable[[Fault], Server]) -> None:
    refusing, missing, good = server(status(400)), server(status(404)), server(right)
    (answer,) = served([refusing.url], [ask(0)])
    assert isinstance(answer, RequestRejected) and len(refusing.bodies) == 1
    (answer,) = served([missing.url], [ask(0)])
    assert isinstance(answer, RequestRejected) and len(missing.bodies) == 1
    assert texts(served([missing.url, good.url], [ask(0)])[0]) == expected(ask(0))


def test_retry_after_is_waited_for_and_not_held_against_the_server(server: Callable[[Fault], Server]) -> None:
    there = server(lambda call: call.fail(429, Retry_After=1) if call.number == 1 else right(call))
    notes: list[str] = []
    (answer,) = served([there.url], [ask(0)], notes)
    assert texts(answer) == expected(ask(0)) and len(notes) == 1
    assert there.times[1] - there.times[0] >= 1
    # Meanwhile another server is asked.
    there = server(lambda call: call.fail(503, Retry_After=30) if call.number == 1 else right(call))
    start = time.monotonic()
    answers = served([there.url, server(right).url], [ask(number) for number in range(8)])
    assert all(isinstance(answer, list) for answer in answers) and time.monotonic() - start < 10


def test_retry_after_is_seconds_or_a_date() -> None:
    assert endpoints.retry_after({"retry-after": "3.5"}) == 3.5
    later = endpoints.retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert later is not None and 25 < later <= 30
    assert endpoints.retry_after({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
    assert endpoints.retry_after({"retry-after": "1e9"}) == 600
    for odd in ("soon", "", "nan"):
        assert endpoints.retry_after({"retry-after": odd}) is None


def test_a_dead_server_is_set_aside_and_asked_again_later(server: Callable[[Fault], Server]) -> None:
    well = threading.Event()
    dead = server(lambda call: right(call) if well.is_set() else call.fail(500))
    good = server(right)
    notes: list[str] = []
    config = EngineConfig(
        kind="server", model="m", urls=(dead.url, good.url), args={"backoff": 0.01, "rest": 0.5, "retries": 2}
    )

    async def run() -> tuple[int, int]:
        async with build(config, notes.append) as engine:
            for number in range(20):
                await engine.generate(ask(number))
            asked = len(dead.bodies)
            well.set()
            await asyncio.sleep(0.6)
            for number in range(20):
                await asyncio.gather(*(engine.generate(ask(100 * number + i)) for i in range(4)))
            return asked, len(dead.bodies)

    asked, after = asyncio.run(run())
    # Of twenty requests no more than the first three, and one that tried it out.
    assert 3 <= asked <= 5
    assert after - asked > 20
    assert sum("set aside" in note for note in notes) == 1 and sum("answers again" in note for note in notes) == 1


def test_a_queue_is_no_stall_while_the_server_brings_tokens(server: Callable[[Fault], Server]) -> None:
    """One request at a time, each slower than the stall: those in the queue wait several stalls, and are asked once."""
    turn = threading.Lock()

    def slow(call: Call) -> None:
        call.head()
        with turn:
            pieces = chunks(call.body)
            for chunk in pieces:
                call.send(chunk)
                time.sleep(0.6 / len(pieces))

    there = server(slow)
    requests = [ask(number, n=1) for number in range(5)]
    answers = served([there.url], requests)
    assert [texts(answer) for answer in answers] == [expected(request) for request in requests]
    assert len(there.bodies) == 5


def test_one_request_that_hangs_ends_by_its_timeout_and_is_no_stall(server: Callable[[Fault], Server]) -> None:
    def script(call: Call) -> None:
        if call.body["seed"] == 0 and not seen.is_set():
            seen.set()
            call.hang()
        time.sleep(0.1)
        right(call)

    seen = threading.Event()
    there = server(script)
    notes: list[str] = []

    async def run() -> list[list[Sample]]:
        config = EngineConfig(
            kind="server", model="m", urls=(there.url,), args={"backoff": 0.01, "stall": 0.6, "timeout": 1.0}
        )
        async with build(config, notes.append) as engine:
            first = asyncio.create_task(engine.generate(ask(0)))
            others = [await engine.generate(ask(number)) for number in range(1, 15)]
            return [await first, *others]

    assert [texts(answer) for answer in asyncio.run(run())] == [expected(ask(number)) for number in range(15)]
    assert len(there.bodies) == 16


def test_a_turn_that_ends_at_once_is_a_sample_and_not_a_lost_text(server: Callable[[Fault], Server]) -> None:
    def at_once(call: Call) -> None:
        call.head()
        call.send({"choices": [piece(0, ids=[2], finish="stop")]})

    (samples,) = served([server(at_once).url], [ask(0, n=1)])
    assert (samples[0].text, samples[0].finish, list(samples[0].token_ids)) == ("", "stop", [])
    # Tokens without a text: a server that keeps the text elsewhere, as reasoning or as a tool call.
    hidden = server(lambda call: (call.head(), call.send({"choices": [piece(0, ids=[5, 6, 2], finish="stop")]}))[1])  # type: ignore[func-returns-value]
    (answer,) = served([hidden.url], [ask(0, n=1)])
    assert isinstance(answer, RequestRejected) and "no text" in str(answer)


def test_a_stage_behind_failing_servers_has_the_rows_of_a_sound_one(
    server: Callable[[Fault], Server], tmp_path: Path
) -> None:
    """All faults in turn at one server, a second one that is down, a third that loses every third answer."""
    turns = [each for each in PASSING if each not in (right_but_whole, hang_at_once, comments_only)]
    bad = server(lambda call: (turns[call.number // 2 % len(turns)] if call.number % 2 else right)(call))
    lossy = server(lambda call: (right if call.number % 3 else cut_without_one)(call))
    sound = server(right)

    def rows(name: str, urls: list[str]) -> list[dict[str, Any]]:
        tree = {
            "name": "faults",
            "ingest": {"sources": [{"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": 40}]},
            "rollout": {
                "engine": {
                    "kind": "server",
                    "model": "m",
                    "urls": urls,
                    "args": {"backoff": 0.01, "stall": 0.5, "rest": 0.1, "retries": 12},
                },
                "samples": 3,
                "error_budget": 0.0,
            },
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(tree))
        workspace = Store.open(tmp_path / name)
        ledgers = pipeline.run(pipeline.load(path), workspace, Silent())
        assert (ledgers["rollout"].out, ledgers["rollout"].failed) == (120, {})
        return workspace.read(ROLLOUTS).sort_by("rollout_id").to_pylist()

    # The port of a server that is no more.
    down = server(right)
    down.close()
    start = time.monotonic()
    disturbed = rows("a", [bad.url, down.url, lossy.url])
    # A server that hangs is noticed also when some of its answers were no streams.
    assert time.monotonic() - start < 20
    assert disturbed == rows("b", [sound.url])
