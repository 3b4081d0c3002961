"""Engines that need no vLLM: the table of names, text and tokens, simulated chains, transformers, a server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import image, save_tiny_model

from curate.engines import build, simulated, worlds
from curate.engines.base import Engine, EngineDead, Image, Request, RequestRejected, Sample, Sampling
from curate.engines.chat import Chat
from curate.engines.detokenize import Detokenizer, join_bytes
from curate.engines.images import DecodedImages
from curate.errors import UserError
from curate.models import torch_companions
from curate.recipe.parsing import validate
from curate.recipe.sections import EngineConfig
from curate.stages.judge import judgement
from curate.text import prompts

WARM = Sampling(1.0, 1.0, 0, 400)


def ask(prompt: str = "How many? [gold=7]", n: int = 4, seed: int = 512, **rest: Any) -> Request:
    given = {"images": (), "prefix_ids": (), "sampling": WARM} | rest
    return Request(f"{seed}", prompt, n=n, seed=seed, **given)


def served(config: EngineConfig, *requests: Request) -> list[Any]:
    """Answers, or the exception of each request, all asked at once."""

    async def run() -> list[Any]:
        async with build(config) as engine:
            return await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)

    return asyncio.run(run())


# --- names -----------------------------------------------------------------------------------------------------------


def test_an_unknown_engine_is_a_user_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match='did you mean "vllm"'):
        validate(EngineConfig, {"kind": "vlm", "model": "none"}, "rollout.engine")
    with pytest.raises(UserError, match='did you mean "vllm"'):
        build(EngineConfig.model_construct(kind="vlm", model="none"))


def test_an_installed_package_adds_an_engine(tmp_path: Path) -> None:
    """A real entry point: metadata and a module in a folder on the path of a fresh interpreter."""
    (tmp_path / "other_engines-1.dist-info").mkdir()
    (tmp_path / "other_engines-1.dist-info" / "METADATA").write_text("Name: other-engines\nVersion: 1\n")
    (tmp_path / "other_engines-1.dist-info" / "entry_points.txt").write_text(
        "[curate.engines]\nechoing = other_engines:Echoing\n"
    )
    (tmp_path / "other_engines.py").write_text(
        "class Echoing:\n    def __init__(self, config, on_note): on_note(config.model)\n"
    )
    code = (
        "from curate.recipe.sections import EngineConfig; from curate.engines import build\n"
        "print(type(build(EngineConfig(kind='echoing', model='m'), print)).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.stdout.split() == ["m", "Echoing"], done.stderr


def test_auto_says_what_it_took_and_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    notes: list[str] = []
    engine = build(EngineConfig(model=str(tmp_path)), notes.append)
    there = importlib.util.find_spec("vllm") is not None
    assert type(engine).__name__ == ("VllmEngine" if there else "TransformersEngine")
    assert notes and ("installed" in notes[0])


def test_choosing_and_checking_an_engine_imports_no_model_library() -> None:
    code = (
        "import sys; from curate.recipe.sections import EngineConfig; from curate.engines import build\n"
        "from curate.errors import UserError\n"
        "for kind in ('auto', 'vllm', 'transformers'):\n"
        "    try: build(EngineConfig(kind=kind, model='./no/such/model'))\n"
        "    except UserError as error: assert 'There is no model at ./no/such/model' in str(error)\n"
        "    else: raise SystemExit('no error')\n"
        "build(EngineConfig(kind='server', model='m', urls=('http://x/v1',)))\n"
        "build(EngineConfig(kind='simulated', model='m'))\n"
        "heavy = {'torch', 'vllm', 'transformers', 'openai'} & set(sys.modules)\n"
        "raise SystemExit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["transformers", "server", "simulated"])
def test_an_unknown_argument_is_a_user_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no argument"):
        build(EngineConfig(kind=kind, model=str(tmp_path), urls=("http://x/v1",), args={"latencyy": 1}))  # type: ignore[arg-type]


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        build(EngineConfig(kind="transformers", model=str(tmp_path)))


# --- text, tokens, images ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def processor(model: Path) -> Any:
    from curate.engines.transformers import load_processor

    return load_processor(str(model), None)


@pytest.fixture(scope="session")
def detokenize(processor: Any) -> Detokenizer:
    return Detokenizer(processor.tokenizer)


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_joined_bytes_read_like_the_whole(pieces: list[bytes]) -> None:
    text, ends = join_bytes(pieces)
    assert text == b"".join(pieces).decode("utf-8", errors="replace")
    assert ends == sorted(ends) and len(ends) == len(pieces)
    assert not ends or ends[-1] == len(text)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_each_token_ends_where_its_last_whole_character_does(
    processor: Any, detokenize: Detokenizer, text: str
) -> None:
    ids = processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    decoded, ends = detokenize(ids)
    assert decoded == text
    data = text.encode()
    spelled = [detokenize([id_])[0] for id_ in ids]
    for place, end in enumerate(ends):
        # The settled text is a beginning of the whole one, and lacks at most one character of what the ids spell.
        assert data.startswith(decoded[:end].encode())
        assert decoded[:end] == processor.tokenizer.decode(ids[: place + 1]).rstrip("\ufffd") or "\ufffd" in text
    assert all("\ufffd" in piece or piece in text for piece in spelled)


@given(st.lists(st.integers(min_value=0, max_value=300), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_ids_decode_as_the_tokenizer_decodes_them(processor: Any, detokenize: Detokenizer, ids: list[int]) -> None:
    text, ends = detokenize(ids)
    assert text == processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ends) == len(ids) and ends == sorted(ends)


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_tokenizer_that_is_not_byte_level_is_decoded_in_windows(text: str) -> None:
    torch_companions.mend()
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)} | {"▁": 257, "a": 258, "b": 259}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    inner.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoded, ends = Detokenizer(tokenizer)(ids)
    assert decoded == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert len(ends) == len(ids) and ends == sorted(ends) and (not ends or ends[-1] == len(decoded))


def test_a_prompt_has_one_placeholder_a_image_before_the_text_and_ends_with_the_prefix(processor: Any) -> None:
    chat = Chat(processor)
    request = ask("How many dots?", images=[image(1), image(2)], prefix_ids=[300, 301])
    text = chat.text(request)
    assert text.count("<|image_pad|>") == 2 and text.index("<|image_pad|>") < text.index("How many")
    ids = chat.ids(request)
    assert ids.count(processor.image_token_id) == 2 and ids[-2:] == [300, 301]
    assert processor.tokenizer.decode(ids[:-2]).endswith("assistant\n")


@pytest.mark.parametrize("prompt", ["a <|im_end|> b", "<|image_pad|>"])
def test_a_prompt_that_spells_a_special_token_is_refused(processor: Any, prompt: str) -> None:
    with pytest.raises(RequestRejected, match="special token"):
        Chat(processor).ids(ask(prompt))


def test_images_are_flattened_on_white_and_bad_ones_refused() -> None:
    import io

    import PIL.Image

    sink = io.BytesIO()
    PIL.Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(sink, "PNG")
    decode = DecodedImages(limit=20)
    seen = decode(Image("clear", sink.getvalue()))
    assert seen.mode == "RGB" and seen.getpixel((0, 0)) == (255, 255, 255)
    assert decode(Image("clear", b"")) is seen, "the same hash is decoded once"
    with pytest.raises(RequestRejected, match="image broken"):
        decode(Image("broken", image(9).data[:60]))
    decode(Image("other", sink.getvalue()))
    with pytest.raises(RequestRejected):
        decode(Image("clear", b""))  # the oldest went when the limit was reached


# --- simulated -------------------------------------------------------------------------------------------------------

SIMULATED = EngineConfig(kind="simulated", model="none")


def with_faults(**faults: Any) -> EngineConfig:
    return EngineConfig(kind="simulated", model="none", args=faults)


def answer_of(text: str) -> str:
    return text.rpartition("Final answer: ")[2]


def test_simulated_chains_look_like_chains_and_repeat() -> None:
    first, second = served(SIMULATED, ask(), ask())
    assert first == second
    text = first[0].text
    assert text.startswith("Step 1: The reasoning is ") and text.count("Step ") == 5 and "\nFinal answer: " in text
    assert bytes(first[0].token_ids).decode() == text and first[0].token_ends[-1] == len(text)
    assert served(SIMULATED, ask(n=1, seed=514))[0][0] == first[2]


@pytest.mark.parametrize("name", sorted(worlds.WORLDS))
def test_simulated_values_are_the_frequencies_of_right_answers(name: str) -> None:
    """Known truth: for each prefix of a chain, the share of right continuations is within 4 standard errors."""
    prompt, m = "Which bar? [gold=12]", 1000
    config = with_faults(world_seed=3, world=name, steps=None)
    chain = served(config, ask(prompt, n=1))[0][0].text.splitlines(keepends=True)[:-1]
    world = worlds.world(prompt, name, None, 3)
    prefixes = ["".join(chain[:count]) for count in range(len(chain))]
    requests = [
        ask(prompt, n=m, seed=2**20 * (place + 1), prefix_ids=simulated.token_ids(prefix))
        for place, prefix in enumerate(prefixes)
    ]
    for prefix, samples in zip(prefixes, served(config, *requests), strict=True):
        value = world.value_of(prefix)
        share = sum(answer_of(prefix + sample.text) == "12" for sample in samples) / m
        assert abs(share - value) <= 4 * (max(value * (1 - value), 1e-3) / m) ** 0.5, prefix
    said = "".join(chain)
    assert world.value_of(said) == float("answer is 12." in said)


def judge_prompt(*steps: str) -> str:
    return prompts.render_judge("first-error", "Which? [gold=7]", [], steps)


def test_a_simulated_judge_errs_at_the_rates_that_are_set() -> None:
    """Known truth: the first wrong step is where it says it is, but for the errors that each step's rate gives it."""
    prompt = judge_prompt("Step 1: The chance is 0.700000.", "Step 2: The reasoning is flawed.", "Step 3: no matter")
    exact = served(SIMULATED, ask(judge_prompt("Step 1: The chance is 0.700000.", "Step 2: The reasoning is flawed.")))
    assert {judgement.read(sample.text, 2).first_error for sample in exact[0]} == {1}
    with pytest.raises(RequestRejected, match="none of a simulated chain"):
        raise served(SIMULATED, ask(prompt))[0]
    good = judge_prompt("Step 1: The reasoning is good.", "Step 2: The reasoning is dead, so the answer is 7.\n")
    config, n = with_faults(false_alarm=0.2, miss=0.3, unreadable=0.1), 4000
    bad = judge_prompt("Step 1: The reasoning is good.", "Step 2: The reasoning is good, so the answer is 8.\n")
    said = [
        [judgement.read(sample.text, 2).first_error for sample in samples]
        for samples in served(config, ask(good, n=n), ask(bad, n=n, seed=2**20))
    ]
    for found, expected in zip(
        said, ({0: 0.2, 1: 0.8 * 0.2, -1: 0.64}, {0: 0.2, 1: 0.8 * 0.7, -1: 0.8 * 0.3}), strict=True
    ):
        for answer, share in (expected | {None: 1 / 9}).items():
            share *= 0.9
            assert abs(found.count(answer) / n - share) < 4 * (share * (1 - share) / n) ** 0.5


@pytest.mark.parametrize("name", sorted(worlds.WORLDS))
def test_the_value_of_a_state_is_the_mean_value_after_the_next_step(name: str) -> None:
    """The martingale of labelling: no step gains or loses value on average."""
    gaps = []
    for number in range(30):
        world = worlds.world(f"problem {number}", name, None)
        rng, state = random.Random(number), world.start()
        for done in range(12):
            if done and world.ends(state, done) == 1:
                break
            after = [world.move(state, done, rng)[0] for _ in range(200)]
            ends = [world.ends(each, done + 1) for each in after]
            later = [
                e * world.success(s) + (0 if e == 1 else (1 - e) * world.value(s, done + 1))
                for e, s in zip(ends, after, strict=True)
            ]
            now = world.value(state, done)
            assert 0 <= now <= 1
            gaps.append(now - sum(later) / len(later))
            state = after[0]
    assert abs(sum(gaps)) <= 4 * sum(gap**2 for gap in gaps) ** 0.5


def test_wrong_chains_are_longer_where_they_are_meant_to_be() -> None:
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for number in range(300):
        world = worlds.world(f"problem {number}", "longer", None)
        text, _ = world.continue_("", random.Random(number))
        lengths[answer_of(text) == world.gold].append(text.count("Step "))
    mean = {right: sum(found) / len(found) for right, found in lengths.items()}
    assert mean[False] > mean[True] + 1


def test_a_prefix_that_is_cut_inside_a_step_is_refused() -> None:
    bad = ask(prefix_ids=simulated.token_ids("Step 1: The reas"))
    wrong_number = ask(prefix_ids=simulated.token_ids("Step 2: The reasoning is good.\n"))
    without_newline = ask(n=1, prefix_ids=simulated.token_ids("Step 1: The reasoning is good."))
    answers = served(SIMULATED, bad, wrong_number, without_newline)
    assert [type(answer) for answer in answers] == [RequestRejected, RequestRejected, list]
    assert answers[2][0].text.startswith("\nStep 2: ")


def test_faults_strike_the_same_requests_every_time_and_at_their_rate() -> None:
    requests = [ask(f"problem {i}", n=2, seed=256 * i) for i in range(400)]
    config = with_faults(error_rate=0.1, reject_rate=0.1, truncation_rate=0.25)
    answers = served(config, *requests)
    assert str(answers) == str(served(config, *reversed(requests))[::-1])
    refused = [answer for answer in answers if isinstance(answer, RequestRejected)]
    samples = [sample for answer in answers if isinstance(answer, list) for sample in answer]
    broken = [sample for sample in samples if sample.finish == "error"]
    cut = [sample for sample in samples if sample.finish == "length"]
    assert 20 <= len(refused) <= 60
    assert 0.05 <= len(broken) / len(samples) <= 0.15 and all(s.error and not s.text for s in broken)
    assert 0.17 <= len(cut) / len(samples) <= 0.33 and all("Final answer" not in s.text or s.text for s in cut)


def test_max_tokens_cuts_the_chain() -> None:
    (samples,) = served(SIMULATED, ask(n=1, sampling=replace(WARM, max_tokens=10)))
    assert samples[0].finish == "length" and samples[0].text == "Step 1: Th"


def test_death_takes_the_requests_under_way_and_a_new_engine_answers_them() -> None:
    requests = [ask(f"problem {i}", seed=256 * i) for i in range(6)]
    config = with_faults(dies_after=4, latency=0.05)
    assert all(isinstance(answer, EngineDead) for answer in served(config, *requests))
    assert served(config, *requests[:3]) == served(SIMULATED, *requests[:3])


def test_a_request_that_hangs_ends_when_it_is_cancelled_or_the_engine_stops() -> None:
    async def run() -> None:
        engine = build(with_faults(hang_rate=1.0))
        async with engine:
            waiting = asyncio.create_task(engine.generate(ask()))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.generate(ask(seed=0)), 0.05)
        with pytest.raises(EngineDead):
            await waiting

    asyncio.run(run())


# --- transformers ----------------------------------------------------------------------------------------------------


def test_transformers_samples_do_not_depend_on_their_company(model: Path) -> None:
    sampling = Sampling(1.0, 1.0, 0, 16)
    requests = [
        ask("How many dots are there in the image?", seed=256, images=[image(30)], sampling=sampling),
        ask("Left?", n=2, seed=512, images=[image(200)], sampling=Sampling(0.7, 0.9, 20, 9, 1.2)),
        ask("No image", n=1, seed=768, sampling=Sampling(0.0, 1.0, 0, 12)),
    ]
    config = EngineConfig(kind="transformers", model=str(model))
    together = served(config, *requests)
    narrow = served(EngineConfig(kind="transformers", model=str(model), args={"batch_rows": 3}), *requests[::-1])[::-1]
    for one, other, request in zip(together, narrow, requests, strict=True):
        assert [s.token_ids for s in one] == [s.token_ids for s in other]
        for sample in one:
            assert sample.finish in ("stop", "length") and len(sample.token_ids) <= request.sampling.max_tokens
            assert sample.mean_logprob is not None and sample.mean_logprob < 0
    assert len({tuple(sample.token_ids) for sample in together[0]}) == 4
    assert served(config, replace(requests[0], n=1, seed=258))[0][0].token_ids == together[0][2].token_ids


def test_transformers_continues_a_prefix_by_ids(model: Path) -> None:
    config = EngineConfig(kind="transformers", model=str(model), max_model_len=256)
    cold = ask("How many dots?", n=1, images=[image(30)], sampling=Sampling(0.0, 1.0, 0, 12))
    (whole,) = served(config, cold)
    rest, long = served(config, replace(cold, prefix_ids=whole[0].token_ids[:5]), replace(cold, prompt="word " * 300))
    assert [*whole[0].token_ids[:5], *rest[0].token_ids][:12] == list(whole[0].token_ids)
    assert rest[0].prompt_tokens == whole[0].prompt_tokens + 5
    assert isinstance(long, RequestRejected) and "256" in str(long)


def test_max_pixels_scales_larger_images_down(model: Path) -> None:
    """36 tokens of 16 x 16 pixels at the image's own 96 x 96; 16 at 64 x 64."""
    request = ask("How many?", n=1, images=[image(30)], sampling=Sampling(1.0, 1.0, 0, 4))
    counts = [
        served(EngineConfig(kind="transformers", model=str(model), max_pixels=pixels), request)[0][0].prompt_tokens
        for pixels in (None, 64 * 64)
    ]
    assert counts[0] - counts[1] == 36 - 16
    with pytest.raises(UserError, match="takes no fewer than 1024"):
        served(EngineConfig(kind="transformers", model=str(model), max_pixels=500), request)


def test_a_image_that_the_processor_refuses_is_the_failure_of_one_request(model: Path) -> None:
    """3,000 by 2 pixels: the processor takes no image more than 200 times as long as wide."""
    import io

    import PIL.Image

    sink = io.BytesIO()
    PIL.Image.new("RGB", (3000, 2), "navy").save(sink, "PNG")
    greedy = Sampling(0.0, 1.0, 0, 4)
    thin, plain = (
        ask("How many?", n=1, images=[each], sampling=greedy) for each in (Image("thin", sink.getvalue()), image(30))
    )
    refused, answered = served(EngineConfig(kind="transformers", model=str(model)), thin, plain)
    assert isinstance(refused, RequestRejected) and "refuses the images: absolute aspect ratio" in str(refused)
    assert len(answered) == 1


def test_draws_follow_the_distribution() -> None:
    """Inverse sampling against known probabilities: chi-square over 4,000 draws, top-k and top-p cut exactly."""
    torch = pytest.importorskip("torch")
    from curate.engines.draws import Draws

    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]])).expand(4000, 4)
    prompt = torch.zeros(4000, 1, dtype=torch.long)
    for sampling, expected in [
        (Sampling(1.0, 1.0, 0, 1), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(0.5, 1.0, 0, 1), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(1.0, 1.0, 2, 1), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, 0.65, 0, 1), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(0.0, 1.0, 0, 1), [1, 0, 0, 0]),
    ]:
        draws = Draws([sampling] * 4000, range(4000), [1] * 4000, {3}, prompt, prompt)
        draws.choose(prompt, logits)
        counts = [0] * 4
        for ids, _ in draws.results():
            counts[ids[0]] += 1
        assert all(count == 0 for count, share in zip(counts, expected, strict=True) if share == 0)
        chi = sum((c - 4000 * e) ** 2 / (4000 * e) for c, e in zip(counts, expected, strict=True) if e)
        assert chi < 16.3, (sampling, counts)  # the 0.1 % point with 3 degrees of freedom
        assert bool(draws.finished(prompt, None).all())


# --- server ----------------------------------------------------------------------------------------------------------


class Endpoint:
    """A small OpenAI-compatible server on loopback; `reply` gets (number of the call, body), gives (status, answer)."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], tuple[int, dict[str, Any]]]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    status, answer = reply(len(outer.bodies), body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Each sample says "é<index>", its two-byte character split over two tokens, and ends with an end token."""
    choices = []
    for index in range(body["n"]):
        pieces = [b"\xc3", b"\xa9", str(index).encode(), b""]
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": f"é{index}"},
                "finish_reason": "stop",
                "token_ids": [10, 11, 20 + index, 2],
                "logprobs": {
                    "content": [
                        {"token": "t", "logprob": -0.5, "bytes": list(piece), "top_logprobs": []} for piece in pieces
                    ]
                },
            }
        )
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return 200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage}


def failure(status: int) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": "no", "type": "t", "code": status}}


@pytest.fixture
def endpoint() -> Iterator[Callable[..., Endpoint]]:
    open_ones: list[Endpoint] = []

    def make(reply: Callable[[int, dict[str, Any]], tuple[int, dict[str, Any]]]) -> Endpoint:
        pytest.importorskip("openai")
        open_ones.append(Endpoint(reply))
        return open_ones[-1]

    yield make
    for each in open_ones:
        each.close()


def at(*urls: str, **args: Any) -> EngineConfig:
    return EngineConfig(kind="server", model="m", urls=urls, args={"backoff": 0.01, **args})


def test_server_request_and_answer(endpoint: Callable[..., Endpoint]) -> None:
    there = endpoint(lambda _, body: completion(body))
    request = ask("Why?", n=3, images=[image(5, kind="JPEG")], sampling=Sampling(0.6, 0.9, 40, 77, 1.1))
    (samples,) = served(at(there.url), request)
    assert samples[1] == Sample("é1", [10, 11, 21], [0, 1, 2], "stop", -0.5, 9)
    body = there.bodies[0]
    assert body["n"] == 3 and body["seed"] == 512 and body["max_tokens"] == 77 and body["temperature"] == 0.6
    assert body["top_k"] == 40 and body["repetition_penalty"] == 1.1 and body["return_token_ids"] is True
    part, text = body["messages"][0]["content"]
    assert part["image_url"]["url"].startswith("data:image/jpeg;base64,") and text["text"] == "Why?"


def test_server_gets_only_what_it_must_know(endpoint: Callable[..., Endpoint]) -> None:
    there = endpoint(lambda _, body: completion(body))
    (samples,) = served(at(there.url, token_ids=False, logprobs=False), ask(n=1))
    assert not {"top_k", "repetition_penalty", "return_token_ids", "logprobs"} & there.bodies[0].keys()
    assert samples[0].finish == "stop"


def test_server_continues_a_prefix_as_text(endpoint: Callable[..., Endpoint]) -> None:
    there = endpoint(lambda _, body: completion(body))
    good = ask(n=1, prefix_ids=[1, 2], prefix_text="Step 1: so\n")
    answers = served(at(there.url, continues=True), good, ask(n=1, prefix_ids=[1, 2]))
    assert isinstance(answers[0], list) and isinstance(answers[1], RequestRejected)
    (body,) = there.bodies
    assert body["messages"][1] == {"role": "assistant", "content": "Step 1: so\n"}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_server_failures_that_pass_are_asked_again(endpoint: Callable[..., Endpoint]) -> None:
    there = endpoint(lambda call, body: failure((429, 503)[call - 1]) if call < 3 else completion(body))
    (samples,) = served(at(there.url), ask(n=1))
    assert samples[0].text == "é0" and len(there.bodies) == 3


def test_server_failures_that_stay_reject_their_request(endpoint: Callable[..., Endpoint]) -> None:
    there = endpoint(lambda _, body: failure(500))
    refusing = endpoint(lambda _, body: failure(400))
    (lasting,) = served(at(there.url, retries=2), ask())
    assert isinstance(lasting, RequestRejected) and "3 times" in str(lasting) and len(there.bodies) == 3
    (refused,) = served(at(refusing.url), ask())
    assert isinstance(refused, RequestRejected) and len(refusing.bodies) == 1


def test_no_server_at_all_rejects_after_the_retries() -> None:
    pytest.importorskip("openai")
    (answer,) = served(at("http://127.0.0.1:9/v1", retries=1), ask())
    assert isinstance(answer, RequestRejected) and "2 times" in str(answer)


def test_servers_share_the_load_and_the_key_stays_out_of_sight(
    endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    both = [endpoint(lambda _, body: completion(body)) for _ in range(2)]
    notes: list[str] = []

    async def run() -> Engine:
        async with build(at(*(each.url for each in both)), notes.append) as engine:
            await asyncio.gather(*(engine.generate(ask(n=1, seed=256 * i)) for i in range(20)))
        return engine

    engine = asyncio.run(run())
    assert [len(each.bodies) for each in both] == [10, 10]
    assert both[0].headers[0]["authorization"] == "Bearer secret-key"
    assert "secret-key" not in " ".join(notes) + str(engine.versions()) + repr(engine)


def test_too_many_samples_are_no_answer(endpoint: Callable[..., Endpoint]) -> None:
    there = endpoint(lambda _, body: completion(body | {"n": 4}))
    (answer,) = served(at(there.url, retries=1), ask(n=3))
    assert isinstance(answer, RequestRejected) and "4 samples for n=3" in str(answer)
