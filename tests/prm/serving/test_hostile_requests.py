"""Clients of `prm serve` and `prm report --serve` that mean harm, are slow, or go away."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
import serving_bench
from hypothesis import given
from hypothesis import strategies as st
from test_serve import GOOD, LIMITS, bomb, png, serving

from prm.model.saved import model_folder
from prm.serving import app as serving_app
from prm.serving import connections, page_server, visitors
from prm.serving.rows import Limits, RequestRefused, ServedRollout, read
from prm.serving.scorer import Batcher, RolloutScores


@pytest.fixture(scope="module")
def workspace(tiny_model, tmp_path_factory):
    return serving_bench.trained(tmp_path_factory.mktemp("served"), tiny_model, test=1)


@pytest.fixture(scope="module")
def client(workspace):
    with serving(model_folder(workspace, "seed-0")) as made:
        yield made


class Raw:
    """A client that speaks as it likes."""

    def __init__(self, client: httpx.Client) -> None:
        self.made = socket.create_connection((client.base_url.host, client.base_url.port), 10)

    def __enter__(self) -> socket.socket:
        return self.made

    def __exit__(self, *_: object) -> None:
        self.made.close()


HEAD = b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def answer_of(raw: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    while part := raw.recv(65536):
        found += part
    return found


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:80"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": "localhost@attacker.example"},
        {"Host": ""},
        {"Host": "192.0.2.7"},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_are_not_answered(client, headers):
    for answer in (client.post("/score", json=GOOD, headers=headers), client.get("/info", headers=headers)):
        assert answer.status_code == 403 and "\n" not in answer.json()["error"]
    own = {"Origin": f"http://{client.base_url.host}:{client.base_url.port}", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/score", json=GOOD, headers=own).status_code == 200
    assert client.get("/info", headers={"Host": "LOCALHOST:1"}).status_code == 200


def test_names_that_a_server_on_a_network_goes_by():
    asked = {"host": "gpu.example"}
    assert visitors.refusal(asked, ["localhost"]) and visitors.refusal(asked, ["localhost"], addresses=True)
    assert visitors.refusal(asked, ["gpu.example"]) is None
    assert visitors.refusal({"host": "192.0.2.7:80"}, [], addresses=True) is None
    assert visitors.refusal({"host": "[2001:db8::1]:80"}, [], addresses=True) is None
    assert visitors.refusal({}, ["localhost"], addresses=True)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_header_makes_the_check_fail(host, origin):
    assert visitors.refusal({"host": host, "origin": origin}, []) is not None


def test_slow_and_silent_clients_are_sent_away_and_hold_nobody(workspace, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.6)
    monkeypatch.setattr(serving_app, "_PART_SECONDS", 0.6)
    monkeypatch.setattr(serving_app, "_BODY_SECONDS", 1.5)
    with serving(model_folder(workspace, "seed-0")) as client, contextlib.ExitStack() as open_ones:
        silent, slow, body, half, unread = (open_ones.enter_context(Raw(client)) for _ in range(5))
        slow.sendall(b"POST /score HT")
        body.sendall(HEAD % 2**20)
        half.sendall(HEAD % 100 + b"{")
        unread.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        # What a client says that it will send takes no room yet.
        more = [open_ones.enter_context(Raw(client)) for _ in range(20)]
        for one in more:
            one.sendall(HEAD % 2**20 + b"[")
        assert client.post("/score", json=GOOD).status_code == 200
        for _ in range(12):
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                slow.sendall(b"x")
            with contextlib.suppress(OSError):
                half.sendall(b" ")
        assert b"408" in answer_of(silent)
        assert b"408" in answer_of(body) and b"408" in answer_of(half)
        assert b"200 OK" in answer_of(unread)
        with contextlib.suppress(ConnectionError):
            answer_of(slow)
        assert all(b"408" in answer_of(one) for one in more)
        assert client.post("/score", json=GOOD).status_code == 200


def test_idle_connections_make_room(workspace, monkeypatch):
    monkeypatch.setattr(connections, "CONNECTIONS", 8)
    with serving(model_folder(workspace, "seed-0")) as client, contextlib.ExitStack() as open_ones:
        for _ in range(30):
            open_ones.enter_context(Raw(client))
        assert client.post("/score", json=GOOD).status_code == 200


def test_a_request_has_a_budget_of_pixels_and_decodes_a_image_once(client, monkeypatch):
    limits = Limits(**(vars(LIMITS) | {"request_pixels": 25_000}))
    text, other = (base64.b64encode(png(100, side)).decode() for side in (100, 99))
    decoded = []
    monkeypatch.setattr("prm.serving.rows.inspect", lambda data, *_: decoded.append(data))
    rows, _ = read(json.dumps([GOOD | {"images": [text, text]}] * 20).encode(), limits)
    assert len(decoded) == 1 and {one.pixels for one in rows} == {20_000}
    rows, _ = read(json.dumps([GOOD | {"images": [text, other]}, GOOD | {"images": [bomb()]}]).encode(), limits)
    assert rows[0].pixels == 19_900
    third = base64.b64encode(png(100, 98)).decode()
    with pytest.raises(RequestRefused, match="more than 25,000 pixels together"):
        read(json.dumps([GOOD | {"images": [text, other]}, GOOD | {"images": [third]}]).encode(), limits)


def test_a_batch_has_a_budget_of_pixels():
    sizes = []

    def score(rows):
        sizes.append([one.pixels for one in rows])
        time.sleep(0.05)
        return [RolloutScores((0.5,), 0.5) for _ in rows]

    async def scene():
        batcher = Batcher(score, batch_rows=4, queue_rows=20, batch_pixels=10)
        batcher.start()
        await batcher.submit([ServedRollout("", (), (), ("a",), pixels) for pixels in (4, 6, 1, 50, 1, 1, 1, 1, 1)])
        await batcher.close()

    asyncio.run(scene())
    assert sizes == [[4, 6], [1], [50], [1, 1, 1, 1], [1]]


@pytest.mark.parametrize("part", [b"[],", b"{},", b"1,", b'[[[{"a":1}]]],'])
def test_a_body_of_empty_values_takes_no_memory(part):
    with pytest.raises(RequestRefused, match="more lists, objects and values"):
        read(b"[" + part * 1_100_000 + b"1]", LIMITS)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 30_000 + b"\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        + b"9" * 19
        + b"\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=range(9),
)
def test_what_is_no_request_is_a_4xx(client, head):
    with Raw(client) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(head)
        with contextlib.suppress(ConnectionError):
            assert answer_of(raw)[:10] == b"HTTP/1.1 4"
    assert client.post("/score", json=GOOD).status_code == 200


class NoChains:
    """Chains of an empty report."""

    def file(self, name: str) -> None:
        return None


@contextlib.contextmanager
def page(size: int = 10):
    """The port of a served page of so many characters."""
    site = page_server.bind(0)
    thread = threading.Thread(target=page_server.serve, args=(site, "x" * size, NoChains()))
    thread.start()
    try:
        yield site.server_address[1]
    finally:
        site.shutdown()
        thread.join(10)


def test_a_client_that_leaves_the_page_is_unseen(capfd):
    with page(2**24) as port:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), 10) as raw:
                raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        time.sleep(0.2)
        assert len(httpx.get(f"http://127.0.0.1:{port}/").content) == 2**24
    assert capfd.readouterr().err == ""


def test_slow_clients_do_not_hold_the_page(monkeypatch, capfd):
    monkeypatch.setattr(page_server, "_CONNECTIONS", 8)
    monkeypatch.setattr(page_server, "_SECONDS", 0.5)
    with page() as port, contextlib.ExitStack() as open_ones:
        made = [open_ones.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(20)]
        for one in made:
            with contextlib.suppress(OSError):
                one.sendall(b"GET / HTTP")
        time.sleep(1.2)
        assert httpx.get(f"http://127.0.0.1:{port}/").text == "x" * 10
        for one in made:
            with contextlib.suppress(ConnectionError):
                assert one.recv(100) == b""
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "headers", [{"Host": "attacker.example"}, {"Origin": "http://attacker.example"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_the_page_is_not_for_other_sites(headers):
    with page() as port:
        assert httpx.get(f"http://127.0.0.1:{port}/", headers=headers).status_code == 403
