"""`prm serve`: the numbers of `prm score` over HTTP, many at a time, and whatever a client may send instead."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import serving_bench
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from curate.errors import RowError, UserError
from prm.cli.app import app
from prm.model.aggregate import aggregation, rollout_logit
from prm.model.saved import model_folder
from prm.scoring.select import probability
from prm.serving import export, server
from prm.serving.rows import Limits, RequestRefused, ServedRollout, read
from prm.serving.scorer import Batcher, Busy, RolloutScores, Scorer

LIMITS = Limits(body_bytes=2**20, rows=40, steps=12, characters=4000, images=2, pixels=20_000)


@pytest.fixture(scope="module")
def workspace(tiny_model, tmp_path_factory):
    return serving_bench.trained(tmp_path_factory.mktemp("served"), tiny_model, test=10)


@contextlib.contextmanager
def serving(folder, batch_rows=16, queue_rows=64):
    """A client of a real server on the loopback, in a thread of its own."""
    ready, place = threading.Event(), []

    def on_ready(address):
        place.append(address)
        ready.set()

    with server.bind("127.0.0.1", 0, False) as bound:
        running = server.build(Scorer(folder, batch_rows), bound, batch_rows, queue_rows, LIMITS, on_ready)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            assert ready.wait(30)
            with httpx.Client(base_url=place[0], timeout=30, limits=httpx.Limits(max_connections=60)) as client:
                yield client
        finally:
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(workspace):
    with serving(model_folder(workspace, "seed-0")) as made:
        yield made


def body_of(row: dict, steps: int | None = None) -> dict:
    images = [base64.b64encode(data).decode() for data in row["pictures"]]
    return {"question": row["question"], "images": images, "steps": row["steps"][:steps]}


def requests_and_scores(workspace, count=50):
    """Requests of unlike lengths, with images and without, and the step scores that `prm score` gave."""
    rows, found = serving_bench.scored_rows(workspace), []
    for index in range(count):
        row, steps = rows[index % len(rows)], (5, 1, 3, 5, 2)[index // len(rows) % 5]
        body = body_of(row, steps)
        if index % 3 == 0:
            body["images"] = [f"data:image/png;base64,{text}" for text in body["images"]]
        found.append((body, row["scores"][:steps]))
    return found


def test_scores_are_those_of_prm_score_under_fifty_requests_at_once(workspace):
    """To the last bit where each chain has a forward of its own, as `prm score` was told to do it here; the first steps
    of a chain take a shorter forward, which rounds in its own way.
    """
    asked = requests_and_scores(workspace)
    with serving(model_folder(workspace, "seed-0"), batch_rows=1) as client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda one: client.post("/score", json=one[0]), asked))
    aggregate = aggregation("mean-log-odds")
    whole = 0
    for (_, scores), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200
        content = answer.json()
        if len(scores) == 5:
            whole += 1
            assert content["steps"] == scores
        assert content == {
            "steps": pytest.approx(scores, abs=1e-6),
            "score": probability(rollout_logit(content["steps"], aggregate)),
            "error": None,
            "aggregation": "mean-log-odds",
            "model": "seed-0",
        }
    assert whole == 20


def test_batches_change_no_score_beyond_rounding(client, workspace):
    asked = requests_and_scores(workspace)
    with ThreadPoolExecutor(50) as pool:
        single = list(pool.map(lambda one: client.post("/score", json=one[0]).json(), asked))
    many = client.post("/score", json=[body for body, _ in asked[:40]]).json()
    assert len(many) == 40
    for (_, scores), answer in [*zip(asked, single, strict=True), *zip(asked, many, strict=False)]:
        assert answer["steps"] == pytest.approx(scores, abs=1e-6)


def test_an_export_is_served_with_the_same_scores(workspace, tmp_path):
    made = export.run(workspace, "seed-0", tmp_path / "out")
    (row, *_), scorer = serving_bench.scored_rows(workspace), Scorer(server.locate(str(made.folder), tmp_path), 1)
    rows, _ = read(json.dumps(body_of(row)).encode(), LIMITS)
    assert list(scorer(rows)[0].steps) == row["scores"]
    assert scorer.name == "out"


def test_branches_text_only_models_and_steps_without_text(folders, tmp_path):
    """`prm serve` reads as the run was trained to; vLLM could not."""
    place = serving_bench.trained(tmp_path / "w", folders("qwen2"), "qwen2", test=1, read="branch")
    (row,) = serving_bench.scored_rows(place)
    scorer = Scorer(server.locate("seed-0", place.root), 1)
    chain = ServedRollout(row["question"], (), (), tuple(row["steps"]))
    shown = ServedRollout(row["question"], (), (("hash", b"x"),), ("a",))
    gap = ServedRollout(row["question"], ("no", "yes"), (), ("one\n", " \n", "two"))
    first, second, third = scorer([chain, shown, gap])
    assert list(first.steps) == row["scores"]
    assert second == RolloutScores(None, None, "image: this model reads text only; leave images out")
    assert third.steps[1] is None and third.steps[2] is not None and third.score is None
    assert scorer.info()["read"] == "branch" and not scorer.info()["images"]


def test_a_model_that_gives_no_number_is_an_error_and_no_score(workspace):
    scorer = Scorer(model_folder(workspace, "seed-0"), 1)
    with torch.no_grad():
        scorer._prm.score.weight.fill_(float("nan"))
    (scored,) = scorer([ServedRollout("How many?", (), (), ("One.",))])
    assert (scored.steps, scored.score, scored.failed) == (None, None, True)


def test_health_and_info(client, workspace):
    assert client.get("/health").json() == {"status": "ok"}
    info = client.get("/info").json()
    assert info["model"] == "seed-0" and info["aggregation"] == "mean-log-odds" and info["images"]
    assert info["limits"] == vars(LIMITS)
    assert str(workspace.root) not in json.dumps(info)


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> str:
    """A PNG of few bytes that says it has 30,000 x 30,000 pixels."""
    data = bytearray(png(8, 8))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return base64.b64encode(data).decode()


GOOD = {"question": "How many?", "steps": ["One."]}
# What is sent, the status, and words of the sentence that comes back.
BAD = [
    (b"", 400, "no JSON"),
    (b"{", 400, "no JSON"),
    (b"[" * 100_000, 400, "no JSON"),
    (b'{"question": "x", "steps": ["a"], "n": ' + b"9" * 5000 + b"}", 400, "no JSON"),
    (b"\xff\xfe\x00", 400, "no JSON"),
    ([], 400, "no row"),
    (3, 400, "must be an object"),
    ([GOOD, None], 400, "rows[1] must be an object"),
    ({}, 400, "question must be a text"),
    (GOOD | {"question": None}, 400, "question must be a text"),
    (GOOD | {"steps": []}, 400, "at least one"),
    (GOOD | {"steps": "One."}, 400, "steps must be a list"),
    (GOOD | {"steps": [1]}, 400, "steps must be a list"),
    (GOOD | {"step": ["a"]}, 400, 'no field "step"; did you mean "steps"'),
    (GOOD | {"\ud800": 1}, 400, "no field"),
    (GOOD | {"question": "\ud800"}, 400, "no valid Unicode"),
    (GOOD | {"steps": ["x"] * 13}, 413, "the limit is 12"),
    (GOOD | {"steps": ["x" * 5000]}, 413, "the limit is 4,000"),
    (GOOD | {"images": [""] * 3}, 413, "the limit is 2"),
    ([GOOD] * 41, 413, "the limit is 40"),
    (GOOD | {"question": "x" * 2**20}, 413, "larger than 1,048,576 bytes"),
    (GOOD | {"steps": ["x y z " * 600]}, 422, "too-long"),
    (GOOD | {"steps": [" ", "\n"]}, 422, "no-step"),
    (GOOD | {"steps": ["a <|im_end|> b"]}, 422, "special-token"),
    (GOOD | {"images": ["http://localhost/secret.png"]}, 422, "not addresses"),
    (GOOD | {"images": ["file:///etc/passwd"]}, 422, "not addresses"),
    (GOOD | {"images": ["/etc/passwd"]}, 422, "base64"),
    (GOOD | {"images": ["data:image/png,abc"]}, 422, "must be base64"),
    (GOOD | {"images": [base64.b64encode(b"no image").decode()]}, 422, "image-unreadable"),
    (
        GOOD | {"images": [base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode()]},
        422,
        "image-",
    ),
    (GOOD | {"images": [base64.b64encode(png(99, 99)[:50]).decode()]}, 422, "image-truncated"),
    (GOOD | {"images": [base64.b64encode(png(200, 200)).decode()]}, 422, "image-too-large"),
    (GOOD | {"images": [base64.b64encode(png(1, 3000)).decode()]}, 422, "refuses the images"),
    (GOOD | {"images": [bomb()]}, 422, "image-too-large"),
]


@pytest.mark.parametrize(("content", "status", "words"), BAD, ids=range(len(BAD)))
def test_bad_input_gets_one_sentence(client, content, status, words):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = client.post("/score", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, set(answer.json()) >= {"error"}) == (status, True)
    sentence = answer.json()["error"]
    assert words in sentence and "\n" not in sentence and len(sentence) < 300
    assert client.post("/score", json=GOOD).status_code == 200


def test_a_bad_row_of_a_list_harms_no_other(client):
    rows = [GOOD, GOOD | {"images": ["?"]}, GOOD | {"steps": [" "]}, GOOD]
    first, second, third, fourth = client.post("/score", json=rows).json()
    assert first["error"] is None and first["steps"] == pytest.approx(fourth["steps"], abs=1e-6)
    assert (second["steps"], second["score"], third["steps"]) == (None, None, None)
    assert second["error"].startswith("image") and third["error"].startswith("no-step")


def test_other_ways_and_kinds_are_refused(client):
    assert client.post("/score", content=json.dumps(GOOD)).status_code == 415
    for answer in (client.get("/score"), client.get("/"), client.post("/score/", json=GOOD)):
        assert answer.status_code in (404, 405) and "POST /score" in answer.json()["error"]
    # A body that does not say how long it is, and one that lies about it.
    parts = (b"x" * 2**18 for _ in range(5))
    answer = client.post("/score", content=parts, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port), 5) as raw:
        raw.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
        raw.shutdown(socket.SHUT_WR)
        raw.recv(1000)
    assert client.post("/score", json=GOOD).status_code == 200


def test_a_full_queue_refuses_and_takes_nothing(workspace):
    with serving(model_folder(workspace, "seed-0"), queue_rows=4) as client:
        answer = client.post("/score", json=[GOOD] * 5)
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert len(client.post("/score", json=[GOOD] * 4).json()) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["question", "steps", "images", "choices", "x"]), below, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON | st.binary(max_size=40))
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_is_rows_or_refused(content):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        rows, many = read(body, LIMITS)
    except RequestRefused as refusal:
        assert 400 <= refusal.status < 500 and "\n" not in refusal.sentence
        # The sentence can be sent.
        refusal.sentence.encode()
    else:
        assert rows and (many or len(rows) == 1)
        assert all(isinstance(row, ServedRollout | RowError) for row in rows)


def row(name: str) -> ServedRollout:
    return ServedRollout(name, (), (), ("step",))


def test_rows_that_fail_are_tried_alone_and_batches_are_bounded(capsys):
    sizes, begun, go_on = [], threading.Event(), threading.Event()

    def score(rows):
        begun.set()
        go_on.wait(10)
        sizes.append(len(rows))
        if any(one.question == "bad" for one in rows):
            raise ValueError("out of memory")
        return [RolloutScores((0.5,), 0.5) for _ in rows]

    async def scene():
        batcher = Batcher(score, batch_rows=3, queue_rows=5)
        batcher.start()
        first = asyncio.create_task(batcher.submit([row("first")]))
        await asyncio.to_thread(begun.wait, 10)
        waiting = [asyncio.create_task(batcher.submit([row(name)])) for name in ("a", "bad", "b", "given up", "c")]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await batcher.submit([row("one too many")])
        waiting[3].cancel()
        go_on.set()
        done = await asyncio.gather(first, *waiting, return_exceptions=True)
        await batcher.close()
        assert not batcher.alive
        return done

    first, a, bad, b, given_up, c = asyncio.run(scene())
    assert all(one[0].score == 0.5 for one in (first, a, b, c))
    assert bad[0].failed and "log" in bad[0].error
    assert isinstance(given_up, asyncio.CancelledError)
    assert sizes == [1, 3, 1, 1, 1, 1]
    assert "out of memory" in capsys.readouterr().err


def test_ctrl_c_finishes_what_is_under_way(workspace):
    asked = requests_and_scores(workspace, 40)
    command = [sys.executable, "-m", "prm", "serve", "seed-0", "-w", str(workspace.root), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            address = process.stdout.readline().split(" at ")[1].split(";")[0]
            with httpx.Client(base_url=address, timeout=30) as client, ThreadPoolExecutor(4) as pool:
                under_way = [pool.submit(client.post, "/score", json=[body for body, _ in asked]) for _ in range(4)]
                # A request is under way when the server has read it, and it reads all that came before it answers.
                time.sleep(0.15)
                for _ in range(5):
                    client.get("/health")
                assert not all(one.done() for one in under_way)
                process.send_signal(signal.SIGINT)
                answers = [one.result() for one in under_way]
            assert process.wait(20) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
    for answer in answers:
        assert answer.status_code == 200
        for (_, scores), one in zip(asked, answer.json(), strict=True):
            assert one["steps"] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_let_in_only_when_asked(host):
    with pytest.raises(UserError, match="--allow-remote"):
        server.bind(host, 0, False)


def test_what_cannot_be_served_is_said_in_a_sentence(workspace, tmp_path):
    with server.bind("127.0.0.1", 0, False) as taken:
        taken.listen()
        with pytest.raises(UserError, match="cannot be used"):
            server.bind("127.0.0.1", taken.getsockname()[1], False)
    with pytest.raises(UserError, match="not an address"):
        server.bind("no host\x00", 0, False)
    with pytest.raises(UserError, match="contains no PRM"):
        server.locate(str(tmp_path), workspace.root)
    with pytest.raises(UserError, match=r"There is no folder .*gone"):
        server.locate(str(tmp_path / "gone"), tmp_path / "no-workspace")
    result = CliRunner().invoke(app, ["serve", "seed-9", "-w", str(workspace.root)])
    assert isinstance(result.exception, UserError) and "runs are seed-0" in str(result.exception)
