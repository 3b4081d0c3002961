"""vLLM in process, through its asynchronous engine: one request at a time in, its n samples out, errors per request.

Prompts go as token ids, with one placeholder per image, so that a prefix continues exactly where its tokens end;
vLLM puts the images' tokens in. What vLLM says it read must end with the prefix ids, or the request is refused.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from curate.engines import vllm_process
from curate.engines.base import EngineDead, Request, RequestRejected, Sample
from curate.engines.chat import Chat, end_ids
from curate.engines.detokenize import Detokenizer
from curate.engines.images import DecodedImages
from curate.errors import UserError, did_you_mean
from curate.models import pretrained, torch_companions
from curate.models.location import check_model, fingerprint
from curate.recipe.sections import EngineConfig
from curate.runtime.signals import held_off

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

# Read by vLLM when it is imported or started; what the user has set stays.
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # A forked engine process would inherit the locks of this process's threads.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Nothing is under way when the engine is stopped; a worker that dawdles need not be waited for.
    "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "2",
    # Its processes repeat what torch and vLLM find worth a warning in their own code.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning,ignore::SyntaxWarning",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
_MAX_IMAGES = 8
# What is still there after this is killed, with its children.
_STOP_SECONDS = 10.0
# vLLM ends a request with "error" when its image caches disagree, and asks for it again.
_ATTEMPTS = 3
_FINISHES = {"stop": "stop", "length": "length", "repetition": "repetition"}


class VllmEngine:
    """An engine on vLLM. `config.args` are fields of vLLM's `AsyncEngineArgs` and go before everything set here."""

    uses = frozenset({"max_model_len", "max_pixels"})

    def __init__(self, config: EngineConfig, on_note: Callable[[str], None]) -> None:
        self._config, self._note = config, on_note
        self._engine: AsyncLLM | None = None
        self._versions: dict[str, str] = {}
        # Prompt tokens read, and how many of them were in the prefix cache.
        self._read = self._cached = 0
        pretrained.check_arguments(config.args)
        check_model(config.model)

    async def __aenter__(self) -> VllmEngine:
        """Load the model; UserError when vLLM cannot. Takes some 20 s for a tiny model, minutes for a large one."""
        starting = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._note("Stopping as soon as the engine has started (Ctrl+C again stops at once).")
            # The thread cannot be stopped half-way, and what it starts must not be left behind.
            await asyncio.wait([starting])
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop the engine's process and wait for its end."""
        engine, self._engine = self._engine, None
        if self._read:
            self._note(
                f"Engine: {self._cached / self._read:.0%} of {self._read:,} prompt tokens were in the prefix cache."
            )
            self._read = self._cached = 0
        if engine is not None:
            engine.shutdown(timeout=_STOP_SECONDS)

    def versions(self) -> dict[str, str]:
        """Versions of vLLM, torch and transformers, and the fingerprint of the model."""
        return dict(self._versions)

    def _start(self) -> None:
        torch_companions.mend()
        import torch
        import transformers

        # On a CPU vLLM warns a dozen times about what a GPU would do; its errors still show.
        level = "WARNING" if torch.cuda.is_available() else "ERROR"
        for name, value in {"VLLM_LOGGING_LEVEL": level, **_ENVIRONMENT}.items():
            os.environ.setdefault(name, value)
        os.environ[vllm_process.OWNER] = str(os.getpid())
        warnings.filterwarnings("ignore", category=FutureWarning)
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        from curate.engines.transformers import load_generation_config, load_processor

        arguments = self._arguments(AsyncEngineArgs.__dataclass_fields__)
        config = self._config
        try:
            pretrained.check(config.model, config.revision)
            # The engine must live on until the work in flight is drained.
            with held_off():
                made = AsyncEngineArgs(**arguments)
                self._engine = AsyncLLM.from_engine_args(made, usage_context=UsageContext.LLM_CLASS)
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"vLLM cannot serve {config.model}: {reason}; its own log above says more.") from error
        self._chat = Chat(load_processor(config.model, config.revision, config.max_pixels))
        self._end_ids = end_ids(self._chat.tokenizer, load_generation_config(config.model, config.revision))
        self._detokenize, self._images = Detokenizer(self._chat.tokenizer), DecodedImages(config.max_pixels)
        self._max_len = int(self._engine.model_config.max_model_len)
        self._versions = {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "model": fingerprint(config.model, config.revision),
        }
        self._note(f"Engine: vLLM {vllm.__version__}, {config.model}, up to {self._max_len} tokens a request.")

    def _arguments(self, known: Mapping[str, Any]) -> dict[str, Any]:
        from vllm.platforms import current_platform

        given = self._config.args
        for name in given:
            if name not in known:
                raise UserError(f'vLLM has no engine argument "{name}"{did_you_mean(name, list(known))}')
        if "max_pixels" in (given.get("mm_processor_kwargs") or {}):
            raise UserError(
                "Set engine.max_pixels in place of max_pixels in mm_processor_kwargs; it belongs to the policy."
            )
        chosen: dict[str, Any] = {
            "model": self._config.model,
            "revision": self._config.revision,
            "max_model_len": self._config.max_model_len,
            "limit_mm_per_prompt": {"image": _MAX_IMAGES, "video": 0},
            "generation_config": "vllm",
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "trust_remote_code": False,
            "load_format": "safetensors",
        }
        if current_platform.is_cpu():
            for name, value in _CPU_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            chosen |= _cpu_arguments(given)
        return chosen | given

    async def generate(self, request: Request) -> list[Sample]:
        """`request.n` samples in order; RequestRejected when vLLM will not have this one, EngineDead when vLLM died."""
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._engine is None:
            raise EngineDead("vLLM is not running")
        prompt = self._prompt(request)
        try:
            for attempt in range(_ATTEMPTS):
                final = await self._ask(request, prompt, attempt)
                if all(output.finish_reason in _FINISHES for output in final.outputs):
                    break
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process died; its log says why") from error
        except (VLLMError, ValueError, TypeError) as error:
            raise RequestRejected(f"vLLM: {error}") from error
        read = list(final.prompt_token_ids or ())
        self._read += len(read)
        self._cached += final.num_cached_tokens or 0
        if request.prefix_ids and read[-len(request.prefix_ids) :] != list(request.prefix_ids):
            raise RequestRejected(
                "what vLLM read does not end with the prefix ids; the model's prompt update changed them"
            )
        outputs = sorted(final.outputs, key=lambda each: each.index)
        samples = self._chat.thoughts_apart(request, [self._sample(output, len(read)) for output in outputs])
        # Greedy decoding has one outcome, and vLLM refuses to be asked for it n times.
        return samples * request.n if request.sampling.temperature == 0 else samples

    async def _ask(self, request: Request, prompt: Any, attempt: int) -> Any:
        """The final output of one submission; rendering happens off the event loop."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        engine = self._engine
        if engine is None:
            raise EngineDead("vLLM is not running")
        renderer = engine.renderer
        parsed = parse_model_prompt(engine.model_config, prompt)
        try:
            (ready,) = await renderer.render_cmpl_async([parsed], renderer.default_cmpl_tok_params)
        except Exception as error:  # In this process, and a model's processor raises anything over an odd image.
            raise RequestRejected(f"vLLM: {str(error) or repr(error)}") from error
        final = None
        async for output in engine.generate(ready, self._sampling(request), f"{request.request_id}-{attempt}"):
            final = output
        if final is None:
            raise ValueError("it gave no output")
        return final

    def _prompt(self, request: Request) -> Any:
        decoded = [self._images(image) for image in request.images]
        ids = self._chat.ids(request)
        extra = self._chat.image_tokens([(each.height, each.width) for each in decoded])
        length = len(ids) + (extra - len(decoded) if extra is not None else 0)
        # Refused here, because a request that vLLM refuses after it took the image leaves its image caches unlike.
        if length >= self._max_len:
            raise RequestRejected(f"the prompt has {length} tokens, the model takes {self._max_len} with its output")
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if decoded:
            prompt["multi_modal_data"] = {"image": decoded}
            prompt["multi_modal_uuids"] = {"image": [image.image_hash for image in request.images]}
        return prompt

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        given = request.sampling
        return SamplingParams(
            n=request.n if given.temperature > 0 else 1,
            seed=request.seed,
            temperature=given.temperature,
            top_p=given.top_p,
            top_k=given.top_k or -1,
            min_p=0.0,
            max_tokens=given.max_tokens,
            repetition_penalty=given.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            stop_token_ids=sorted(self._end_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _sample(self, output: Any, prompt_tokens: int) -> Sample:
        drawn = list(output.token_ids)
        finish = _FINISHES.get(output.finish_reason, "error")
        ended = finish == "stop" and drawn and drawn[-1] in self._end_ids
        ids = drawn[:-1] if ended else drawn
        text, ends = self._detokenize(ids)
        total = output.cumulative_logprob
        return Sample(
            text=text,
            token_ids=ids,
            token_ends=ends,
            finish=finish,
            mean_logprob=total / len(drawn) if total is not None and drawn else None,
            prompt_tokens=prompt_tokens,
            error=f"vLLM ended with {output.finish_reason}" if finish == "error" else None,
        )


def _cpu_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM needs on a CPU, beside what is given.

    With seeds per request it dies at the first partial prefill ("CPU Generator does not use offset"), so prompts are
    never cut: no chunked prefill, and room for many whole prompts in a batch. Compiling takes longer than it saves.
    """
    needed = {
        "dtype": "float32",
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": 65_536,
        "max_num_seqs": 256,
        # The default of 128 is longer than most prefixes here, so that none would be found in the cache again.
        "block_size": 32,
    }
    if not any(name.endswith("parallel_size") for name in given):
        # By its class: vLLM takes "uni" for "mp" on a CPU, and a process for the one worker costs ten seconds to start
        # and spins between its steps. OpenMP's settings are those of the environment, as in every other command.
        needed["distributed_executor_backend"] = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
    return needed
