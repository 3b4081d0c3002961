"""Options that several commands share, and those that stand for keys of a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.errors import UserError

Recipe = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="CURATE_WORKSPACE", help="Folder with all tables and runs.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the recipe; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables and progress.")]
Replace = Annotated[bool, typer.Option("--replace", help="Delete the rows of this stage and start over.")]

WORKSPACE = Path("workspace")

# Short forms of --set for the key that each names in `ROLLOUT_KEYS`.
Model = Annotated[str | None, typer.Option("--model", help="Folder, hub id or served name of the policy.")]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Engine: vllm, server, transformers, simulated, replay, auto, or one of an installed package.",
    ),
]
Samples = Annotated[int | None, typer.Option("--samples", "-n", help="Rollouts per problem.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Sampling temperature.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Nucleus sampling threshold.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Maximum length of a whole chain, in tokens.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the recipe.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Maximum number of problems per domain and role.")]
Domain = Annotated[
    list[str] | None, typer.Option("--domain", metavar="NAME", help="Only this domain; may be repeated.")
]
Url = Annotated[list[str] | None, typer.Option("--url", help="Base URL of a server; may be repeated.")]
EngineArg = Annotated[
    list[str] | None,
    typer.Option("--engine-arg", metavar="KEY=VALUE", help="Argument of the engine; may be repeated."),
]
TensorParallel = Annotated[int | None, typer.Option("--tp", help="Number of GPUs that share the model (vllm).")]
GpuMemory = Annotated[
    float | None, typer.Option("--gpu-memory-utilization", help="Share of the GPU memory to use (vllm).")
]
MaxModelLen = Annotated[
    int | None,
    typer.Option("--max-model-len", help="Maximum tokens of prompt and output together (vllm, transformers)."),
]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", help="Scale images with more pixels down to this many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print prompts and the number of requests, and write nothing.")]

ROLLOUT_KEYS = {
    "model": "rollout.engine.model",
    "engine": "rollout.engine.kind",
    "samples": "rollout.samples",
    "temperature": "rollout.sampling.temperature",
    "top-p": "rollout.sampling.top_p",
    "max-tokens": "rollout.sampling.max_tokens",
    "seed": "seed",
    "limit": "rollout.limit",
    "domain": "rollout.domains",
    "url": "rollout.engine.urls",
    "tp": "rollout.engine.args.tensor_parallel_size",
    "gpu-memory-utilization": "rollout.engine.args.gpu_memory_utilization",
    "max-model-len": "rollout.engine.max_model_len",
    "max-pixels": "rollout.engine.max_pixels",
}


def as_settings(given: Mapping[str, Any], engine_args: Sequence[str], settings: Sequence[str]) -> list[str]:
    """`settings` and after them what was `given` by its own option, as `key.path=value`.

    UserError for an argument without a value, and for a key that is given twice.
    """
    short = [
        (f"--{name}", f"{ROLLOUT_KEYS[name]}={json.dumps(value)}")
        for name, value in given.items()
        if value is not None and value != []
    ]
    for text in engine_args:
        key, equals, _ = text.partition("=")
        if not equals or not key:
            raise UserError(f'--engine-arg takes key=value, not "{text}".')
        short.append((f"--engine-arg {key}", f"rollout.engine.args.{text}"))
    taken = {text.partition("=")[0]: f"--set {text}" for text in settings}
    for name, text in short:
        key = text.partition("=")[0]
        if key in taken:
            raise UserError(f"{name} and {taken[key]} set the same key; give one of them.")
        taken[key] = name
    return [*settings, *(text for _, text in short)]
