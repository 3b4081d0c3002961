"""Any OpenAI-compatible endpoint, through chat completions; several servers share the load.

Pictures go as data URIs before the text. A prefix goes as the beginning of the assistant's message, as text: the server
renders and tokenises it anew, and nothing it returns shows how, so here, unlike in the other engines, "continues
exactly" is the server's word (vLLM's `continue_final_message`). A chat template that trims or rewrites an assistant's
message makes labels off-policy; where that matters, use an engine in process.
"""

from __future__ import annotations

import asyncio
import binascii
import importlib.metadata
import os
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from curate.config import did_you_mean
from curate.engines.base import EngineDead, Image, Request, RequestRejected, Sample
from curate.engines.detokenize import join_bytes
from curate.errors import UserError
from curate.sections import EngineConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_DEFAULTS: dict[str, Any] = {"retries": 6, "backoff": 1.0, "timeout": 600.0, "token_ids": True, "logprobs": True}
_MAX_WAIT = 60.0
_FINISHES = {"stop": "stop", "length": "length", "repetition": "repetition"}
# What the magic bytes of a picture say about its type; servers decode by content, so a wrong guess does no harm.
_MEDIA = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


class ServerEngine:
    """An engine on `config.urls`; the one with the fewest requests under way is asked next.

    `config.args`: `retries` after the first try (6), `backoff` seconds before the first of them (1.0, doubled each
    time, with jitter), `timeout` of one try in seconds (600), `token_ids` and `logprobs`, whether to ask for them (both
    true; set false for servers that refuse the fields). The key is the environment variable OPENAI_API_KEY.
    """

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        for name in config.args:
            if name not in _DEFAULTS:
                raise UserError(f'The server engine has no argument "{name}"{did_you_mean(name, list(_DEFAULTS))}')
        if not config.urls:
            raise UserError("The server engine needs `engine.urls`, such as [http://localhost:8000/v1].")
        self._config, self._note = config, on_note
        self._args = _DEFAULTS | config.args
        self._clients: list[AsyncOpenAI] = []
        self._under_way = [0] * len(config.urls)

    async def __aenter__(self) -> ServerEngine:
        """Open the connections; UserError when no server answers or none knows the model."""
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise UserError("The server engine needs the package openai; install curate-prm[server].") from None
        key = os.environ.get("OPENAI_API_KEY") or "EMPTY"
        timeout = float(self._args["timeout"])
        # Retries are made here, where their waits are drawn from the request's seed.
        self._clients = [
            AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0) for url in self._config.urls
        ]
        self._note(f"Engine: {self._config.model} at {', '.join(self._config.urls)}.")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        clients, self._clients = self._clients, []
        for client in clients:
            await client.close()

    def versions(self) -> dict[str, str]:
        """Version of the client, and the model's name as the server knows it; the server's own version is unknown."""
        return {"openai": importlib.metadata.version("openai"), "model": self._config.model}

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order.

        RequestRejected when the server refuses this request, or still fails after the last retry. `token_ids` and
        `token_ends` are empty where the server does not return them, `mean_logprob` is null then.
        """
        if request.prefix_ids and not request.prefix_text:
            raise RequestRejected("a server continues from text, and the request has its prefix as token ids only")
        if not self._clients:
            raise EngineDead("the connections are closed")
        answer = await self._persist(request, self._body(request))
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        if len(choices) != request.n:
            raise RequestRejected(f"the server returned {len(choices)} samples for n={request.n}")
        prompt_tokens = answer.usage.prompt_tokens if answer.usage is not None else 0
        return [_sample(choice, prompt_tokens) for choice in choices]

    async def _persist(self, request: Request, body: dict[str, Any]) -> Any:
        """Ask, and ask again while the failure is one that passes: 429, 5xx, time-out, no connection."""
        from openai import APIConnectionError, APIError, APIStatusError

        jitter = random.Random(request.seed)
        failure = ""
        for attempt in range(int(self._args["retries"]) + 1):
            if attempt:
                wait = min(_MAX_WAIT, float(self._args["backoff"]) * 2 ** (attempt - 1))
                await asyncio.sleep(wait * (0.5 + jitter.random()))
            place = min(range(len(self._clients)), key=self._under_way.__getitem__)
            self._under_way[place] += 1
            try:
                return await self._clients[place].chat.completions.create(**body)
            except APIStatusError as error:
                failure = f"HTTP {error.status_code}: {error.message}"
                if error.status_code not in (408, 409, 429) and error.status_code < 500:
                    raise RequestRejected(f"the server refused: {failure}"[:500]) from error
            except APIConnectionError as error:
                failure = str(error)
            except APIError as error:
                raise RequestRejected(f"the server's answer cannot be read: {error.message}"[:500]) from error
            finally:
                self._under_way[place] -= 1
        raise RequestRejected(f"the server failed {int(self._args['retries']) + 1} times: {failure}"[:500])

    def _body(self, request: Request) -> dict[str, Any]:
        given, extra = request.sampling, dict[str, Any]()
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_uri(image)}} for image in request.images
        ]
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": [*parts, {"type": "text", "text": request.prompt}]},
        ]
        if request.prefix_text:
            messages.append({"role": "assistant", "content": request.prefix_text})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        # Only where they say something: other servers refuse what they do not know.
        if given.top_k:
            extra["top_k"] = given.top_k
        if given.repetition_penalty != 1.0:
            extra["repetition_penalty"] = given.repetition_penalty
        if self._args["token_ids"]:
            extra["return_token_ids"] = True
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": messages,
            "n": request.n,
            "seed": request.seed,
            "temperature": given.temperature,
            "top_p": given.top_p,
            "max_tokens": given.max_tokens,
            "extra_body": extra,
        }
        return body | ({"logprobs": True} if self._args["logprobs"] else {})


def _data_uri(image: Image) -> str:
    media = next((kind for magic, kind in _MEDIA if image.data.startswith(magic)), "png")
    return f"data:image/{media};base64,{binascii.b2a_base64(image.data, newline=False).decode()}"


def _sample(choice: Any, prompt_tokens: int) -> Sample:
    text = choice.message.content or ""
    finish = _FINISHES.get(choice.finish_reason, "error")
    entries = list(choice.logprobs.content or ()) if choice.logprobs is not None else []
    drawn = list((choice.model_extra or {}).get("token_ids") or ())
    ends = _ends(text, [bytes(entry.bytes or b"") for entry in entries], finish == "stop")
    if len(drawn) == len(entries) and ends:
        ids = drawn[: len(ends)]
    else:
        ids, ends = [], []
    return Sample(
        text=text,
        token_ids=ids,
        token_ends=ends,
        finish=finish,
        mean_logprob=sum(entry.logprob for entry in entries) / len(entries) if entries else None,
        prompt_tokens=prompt_tokens,
        error=f"the server ended with {choice.finish_reason}" if finish == "error" else None,
    )


def _ends(text: str, pieces: Sequence[bytes], ended: bool) -> list[int]:
    """Where each token ends in `text`, the end-of-turn token left out; [] when the pieces do not spell the text."""
    # Servers that list the end-of-turn token give it no bytes, or those of its name.
    for count in (len(pieces) - 1, len(pieces)) if ended else (len(pieces),):
        if count > 0:
            spelled, ends = join_bytes(pieces[:count])
            if spelled == text:
                return ends
    return []
