"""transformers: the fallback that needs nothing else. Slow, plain, and the same sample for the same request.

Requests that wait are generated together, padded on the left. Every row draws from its own random stream, so that a
sample does not depend on what it is batched with, up to the rounding of the model's own arithmetic.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.engines.chat import Chat, end_ids, refusing_images
from curate.engines.detokenize import Detokenizer
from curate.engines.images import DecodedImages
from curate.errors import UserError, did_you_mean
from curate.models import pretrained, torch_companions
from curate.models.location import check_model, fingerprint
from curate.recipe.sections import EngineConfig

_ARGUMENTS = ("batch_rows", "device", "dtype", "attn_implementation")


def load_processor(model: str, revision: str | None, max_pixels: int | None = None) -> Any:
    """The model's `AutoProcessor` (its tokenizer, for a text-only model); UserError when it has none.

    `max_pixels` is only held against what the processor takes: UserError where it would scale images up again.
    """
    torch_companions.mend()
    from transformers import AutoProcessor

    try:
        processor = pretrained.load(AutoProcessor, model, revision)
    except (OSError, ValueError) as error:
        raise UserError(f"The processor of {model} cannot be loaded: {_first_line(error)}") from error
    images: Any = getattr(processor, "image_processor", None)
    # Only with these does `shortest_edge` count pixels; elsewhere it is a length.
    if max_pixels is not None and "max_pixels" in getattr(getattr(images, "valid_kwargs", None), "__annotations__", {}):
        least = int(dict(images.size)["shortest_edge"])
        if max_pixels < least:
            raise UserError(f"engine.max_pixels is {max_pixels}, and {model} takes no fewer than {least}; raise it.")
    return processor


def load_generation_config(model: str, revision: str | None) -> Any:
    """The model's generation config, null when it has none; only its end-of-turn ids are used."""
    from transformers import GenerationConfig

    try:
        return pretrained.load(GenerationConfig, model, revision)
    except OSError:
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@dataclass
class _OwedSample:
    """One sample that is pending: a request's prepared inputs, its index, and where the sample goes."""

    request: Request
    inputs: dict[str, Any]
    index: int
    answer: asyncio.Future[Sample]


class TransformersEngine:
    """An engine on `transformers`.

    `config.args`: `batch_rows` (samples generated together), `device` ("cpu", "cuda", ...), `dtype`,
    `attn_implementation`; all chosen by what the machine has when not given.
    """

    uses = frozenset({"max_model_len", "max_pixels"})

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        for name in config.args:
            if name not in _ARGUMENTS:
                raise UserError(f'The transformers engine has no argument "{name}"{did_you_mean(name, _ARGUMENTS)}')
        pretrained.check_attention(config.args.get("attn_implementation"), "engine.args.attn_implementation")
        check_model(config.model)
        self._config, self._note = config, on_note
        self._versions: dict[str, str] = {}
        self._waiting: asyncio.Queue[_OwedSample] = asyncio.Queue()
        self._model: Any = None
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> TransformersEngine:
        """Load the model; UserError when transformers cannot."""
        await asyncio.to_thread(self._start)
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop after the batch at hand and free the model."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])
        while not self._waiting.empty():
            self._waiting.get_nowait().answer.cancel()
        self._model = None

    def versions(self) -> dict[str, str]:
        """Versions of torch and transformers, and the fingerprint of the model."""
        return dict(self._versions)

    def _start(self) -> None:
        torch_companions.mend()
        import torch
        import transformers
        from transformers import AutoModelForImageTextToText, GenerationConfig

        transformers.utils.logging.disable_progress_bar()
        config, args = self._config, self._config.args
        device = args.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
        processor = load_processor(config.model, config.revision, config.max_pixels)
        options = {"attn_implementation": args["attn_implementation"]} if "attn_implementation" in args else {}
        try:
            model = pretrained.load(
                AutoModelForImageTextToText,
                config.model,
                config.revision,
                dtype=args.get("dtype") or ("float32" if device == "cpu" else "auto"),
                use_safetensors=True,
                **options,
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"transformers cannot load {config.model}: {_first_line(error)}") from error
        self._chat = Chat(processor)
        tokenizer = self._chat.tokenizer
        self._end_ids = end_ids(tokenizer, model.generation_config)
        self._pad = next(id_ for id_ in (tokenizer.pad_token_id, *sorted(self._end_ids), 0) if id_ is not None)
        # An empty one: the model's own sampling defaults must not reach the logits.
        model.generation_config = GenerationConfig(pad_token_id=self._pad)
        self._model = model.to(device).eval()
        self._processor, self._images, self._detokenize = (
            processor,
            DecodedImages(config.max_pixels),
            Detokenizer(tokenizer),
        )
        self._batch_rows = int(args.get("batch_rows") or (64 if device != "cpu" else 16))
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._max_len = config.max_model_len or limit or 2**31
        self._versions = {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "model": fingerprint(config.model, config.revision),
        }
        self._note(f"Engine: transformers {transformers.__version__} on {device}, {config.model}.")

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order; RequestRejected when it is too long or has an unreadable image."""
        worker = self._worker
        if worker is None:
            raise EngineDead("the transformers engine is not running")
        inputs = self._inputs(request)
        loop = asyncio.get_running_loop()
        rows = [_OwedSample(request, inputs, index, loop.create_future()) for index in range(request.n)]
        for row in rows:
            self._waiting.put_nowait(row)
        try:
            return self._chat.thoughts_apart(request, [await _answer(row, worker) for row in rows])
        finally:
            for row in rows:
                row.answer.cancel()  # of no effect on those that are done

    def _inputs(self, request: Request) -> dict[str, Any]:
        """What the model's processor makes of one request, the prefix ids at its end. Every tensor has one row."""
        import torch

        self._chat.ids(request)  # refuses what must not reach the model
        images = [self._images(image) for image in request.images]
        text = self._chat.text(request)
        options: dict[str, Any] = {"images": images} if images else {}
        with refusing_images() if images else contextlib.nullcontext():
            made = dict(self._processor(text=[text], add_special_tokens=False, return_tensors="pt", **options))
        prefix = torch.tensor([list(request.prefix_ids)], dtype=torch.long)
        length = made["input_ids"].shape[1]
        for name, value in made.items():
            if _per_token(value, length):
                tail = prefix if name == "input_ids" else torch.full_like(prefix, int(name == "attention_mask"))
                made[name] = torch.cat([value, tail.to(value.dtype)], dim=1)
        if made["input_ids"].shape[1] >= self._max_len:
            raise RequestRejected(
                f"the prompt has {made['input_ids'].shape[1]} tokens, the model takes {self._max_len} with its output"
            )
        return made

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._batch_rows and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [row for row in batch if not row.answer.done()]
            if batch:
                await self._serve(batch)

    async def _serve(self, batch: Sequence[_OwedSample]) -> None:
        """Answer every row; a batch that does not fit in the device's memory is halved."""
        import torch

        try:
            samples = await asyncio.to_thread(self._sample, batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                refusal = RequestRejected(f"the request does not fit in memory: {_first_line(error)}")
                if not batch[0].answer.done():
                    batch[0].answer.set_exception(refusal)
                return
            half = len(batch) // 2
            await self._serve(batch[:half])
            await self._serve(batch[half:])
            return
        for row, sample in zip(batch, samples, strict=True):
            if not row.answer.done():
                row.answer.set_result(sample)

    def _sample(self, batch: Sequence[_OwedSample]) -> list[Sample]:
        import torch

        from curate.engines.draws import Draws

        inputs = _collate([row.inputs for row in batch], self._pad)
        length = inputs["input_ids"].shape[1]
        budgets = [min(row.request.sampling.max_tokens, self._max_len - _length(row)) for row in batch]
        draws = Draws(
            [row.request.sampling for row in batch],
            [row.request.seed + row.index for row in batch],
            budgets,
            self._end_ids,
            inputs["input_ids"],
            inputs["attention_mask"],
        )
        with torch.inference_mode():
            self._model.generate(
                **{name: value.to(self._model.device) for name, value in inputs.items()},
                do_sample=False,
                max_length=length + max(budgets),
                logits_processor=[draws.choose],
                stopping_criteria=[draws.finished],
            )
        return [self._finished(row, ids, logprob) for row, (ids, logprob) in zip(batch, draws.results(), strict=True)]

    def _finished(self, row: _OwedSample, drawn: list[int], mean_logprob: float | None) -> Sample:
        ended = bool(drawn) and drawn[-1] in self._end_ids
        ids = drawn[:-1] if ended else drawn
        text, ends = self._detokenize(ids)
        return Sample(text, ids, ends, "stop" if ended else "length", mean_logprob, _length(row))


async def _answer(row: _OwedSample, worker: asyncio.Task[None]) -> Sample:
    """The row's sample; EngineDead when the worker ends without it."""
    waited: list[asyncio.Future[Any]] = [row.answer, worker]
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    if not row.answer.done() or row.answer.cancelled():
        cause = worker.exception() if worker.done() and not worker.cancelled() else None
        raise EngineDead(f"the transformers engine stopped ({cause})") from cause
    return row.answer.result()


def _length(row: _OwedSample) -> int:
    return int(row.inputs["input_ids"].shape[1])


def _per_token(value: Any, length: int) -> bool:
    return value.ndim == 2 and tuple(value.shape) == (1, length)


def _collate(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, Any]:
    """One batch: what has a value per token is padded on the left, what has one per image or patch is joined."""
    import torch

    lengths = [row["input_ids"].shape[1] for row in rows]
    width = max(lengths)
    batch = {}
    # Requests without images may stand beside requests with some.
    for name in {name: None for row in rows for name in row}:
        having = [(row[name], length) for row, length in zip(rows, lengths, strict=True) if name in row]
        if len(having) < len(rows) or not all(_per_token(value, length) for value, length in having):
            batch[name] = torch.cat([value for value, _ in having])
            continue
        filler = pad if name == "input_ids" else 0
        batch[name] = torch.cat(
            [torch.nn.functional.pad(value, (width - length, 0), value=filler) for value, length in having]
        )
    return batch
