"""The vLLM engine against real vLLM and a random tiny model; one start for all that is asked of it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import image, save_tiny_model

from curate.engines import build
from curate.engines.base import Engine, EngineDead, Request, RequestRejected, Sampling
from curate.errors import UserError
from curate.recipe.sections import EngineConfig

# An owner with two children that prepare themselves as vLLM's processes do; one of them is told that it has another
# owner. Each says which it is and its process id, and sleeps.
OWNER = """
import multiprocessing, os, time
from curate.engines import vllm_process

# As in vLLM's processes, while the child is still being set up.
vllm_process.prepare()

def child(name):
    print(name, os.getpid(), flush=True)
    time.sleep(120)

if __name__ == "__main__":
    started = []
    for name, owner in (("owned", os.getpid()), ("foreign", 1)):
        os.environ[vllm_process.OWNER] = str(owner)
        started.append(multiprocessing.get_context("spawn").Process(target=child, args=(name,)))
        started[-1].start()
    for process in started:
        process.join()
"""
WARM = Sampling(1.0, 1.0, 0, 24)
NEEDS_VLLM = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def request(name: str, prompt: str = "How many dots?", n: int = 4, **rest: object) -> Request:
    given = {"images": [image(40)], "prefix_ids": (), "seed": 512, "sampling": WARM} | rest
    return Request(name, prompt, n=n, **given)  # type: ignore[arg-type]


def descendants() -> set[int]:
    rows = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, rows[::2]), map(int, rows[1::2]), strict=True))
    found, grew = {os.getpid()}, True
    while grew:
        grew = False
        for pid, parent in parents.items():
            if parent in found and pid not in found:
                found, grew = found | {pid}, True
    return found - {os.getpid()}


def engine_processes() -> set[int]:
    """Children that run vLLM, not the helpers of Python's multiprocessing."""
    found = set()
    for pid in descendants():
        path = Path(f"/proc/{pid}/cmdline")
        if path.exists() and b"VLLM" in path.read_bytes():
            found.add(pid)
    return found


async def _checks(engine: Engine) -> None:
    samples = await engine.generate(request("first"))
    assert len(samples) == 4
    assert len({tuple(sample.token_ids) for sample in samples}) == 4, "each of the n draws from its own stream"
    for sample in samples:
        assert sample.finish in ("stop", "length")
        assert len(sample.token_ids) == len(sample.token_ends) <= WARM.max_tokens
        assert not sample.token_ends or sample.token_ends[-1] == len(sample.text)
        assert sample.mean_logprob is not None and sample.mean_logprob < 0

    # Sample j of n is the only sample of a request with seed + j; the same seed gives the same text.
    third = await engine.generate(request("third", n=1, seed=514))
    assert third[0].token_ids == samples[2].token_ids

    # What was drawn continues by ids: the prompt grows by exactly the prefix, image tokens apart.
    cut = len(samples[0].token_ids) // 2
    prefix = samples[0].token_ids[:cut]
    more = await engine.generate(request("continued", prefix_ids=prefix, n=2))
    assert more[0].prompt_tokens == samples[0].prompt_tokens + cut
    cold = Sampling(0.0, 1.0, 0, 12)
    whole = (await engine.generate(request("greedy", n=1, sampling=cold)))[0].token_ids
    rest = await engine.generate(request("greedy rest", n=2, prefix_ids=whole[:5], sampling=cold))
    assert [*whole[:5], *rest[0].token_ids][: len(whole)] == list(whole)
    assert rest[0] == rest[1]

    # Bad requests are refused alone, and the image that came with one is still usable by the next.
    other = [image(200)]
    answers = await asyncio.gather(
        engine.generate(request("good")),
        engine.generate(request("long", prompt="word " * 600, images=other)),
        engine.generate(request("special", prompt="end <|im_end|> here")),
        engine.generate(request("placeholder", prefix_ids=[5])),
        engine.generate(request("good too", images=other)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [list, RequestRejected, RequestRejected, RequestRejected, list]
    assert answers[0] == samples


async def _life_and_death(model: Path) -> None:
    notes: list[str] = []
    config = EngineConfig(
        kind="vllm", model=str(model), max_model_len=512, max_pixels=64 * 64, args={"max_num_seqs": 32}
    )
    async with build(config, notes.append) as engine:
        seen, unseen = [await engine.generate(request(f"{n}", images=[image(9)] * n)) for n in (1, 0)]
        # 16 tokens of 16 x 16 pixels between two marks; the image itself would take 36.
        assert seen[0].prompt_tokens - unseen[0].prompt_tokens == 16 + 2
        assert "vLLM" in notes[-1] and engine.versions()["vllm"] in notes[-1]
        await _checks(engine)
        processes = engine_processes()
        assert processes
        # Ctrl+C in a terminal reaches the engine's processes too; they must live on, so that work can be drained.
        for pid in processes:
            os.kill(pid, signal.SIGINT)
        await engine.generate(request("after Ctrl+C"))
        under_way = asyncio.create_task(engine.generate(request("cut off", n=64, sampling=Sampling(1.0, 1.0, 0, 400))))
        await asyncio.sleep(0.2)
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDead):
            await under_way
        with pytest.raises(EngineDead):
            await engine.generate(request("too late"))
    assert not engine_processes()


@NEEDS_VLLM
def test_samples_prefixes_isolation_and_death(tmp_path: Path) -> None:
    asyncio.run(_life_and_death(save_tiny_model(tmp_path / "model")))


@NEEDS_VLLM
def test_an_unknown_argument_is_named_before_anything_starts(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    config = EngineConfig(kind="vllm", model=str(model), args={"max_num_sequences": 3})

    async def start() -> None:
        async with build(config):
            pass

    with pytest.raises(UserError, match="max_num_seq"):
        asyncio.run(start())


def test_an_engine_process_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    """And only then: a process of somebody else's vLLM, which is not ours to end, goes on."""
    pytest.importorskip("torch")
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        said = [owner.stdout.readline().split() for _ in range(2)]
        owned, foreign = (int(pid) for _, pid in sorted(said, reverse=True))
        owner.kill()
        deadline = time.monotonic() + 10
        while _alive(owned) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2.5)
        ended = [not _alive(pid) for pid in (owned, foreign)]
        for pid in (owned, foreign):
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)
        assert ended == [True, False]


def _alive(pid: int) -> bool:
    """Running: neither gone nor a zombie that nobody has collected yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_several_workers_have_vllm_s_own_executor():
    """The one that shares the engine's process holds one worker."""
    from curate.engines.vllm import _cpu_arguments

    assert "distributed_executor_backend" in _cpu_arguments({"max_model_len": 512})
    assert "distributed_executor_backend" not in _cpu_arguments({"tensor_parallel_size": 2})
