"""What ingest would make of a source's first row, and the prompt that a policy would see. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from curate import prompts, rows
from curate.chain import Recipe, prompt_of
from curate.errors import RowError
from curate.schema import Row
from curate.sources import open_source
from curate.sources.base import BadRow, GivenChain

# So many rows are tried for one that can be used.
_TRIES = 100


def texts(recipe: Recipe) -> Iterator[str]:
    """For each source of the recipe: rejects before the first usable row, its fields, and its rendered prompt."""
    config = recipe.section("ingest")
    has_rollout = "rollout" in recipe.sections
    prompt = prompt_of(recipe.section("rollout"), recipe.folder) if has_rollout else prompts.template("structured-five")
    for source in config.sources:
        yield f"# {source.name} ({source.role})"
        for _, row in zip(range(_TRIES), open_source(source, recipe.base).rows(), strict=False):
            try:
                if isinstance(row, BadRow):
                    raise row.error
                problem, pictures = rows.problem_of(row, source, rows.looked(row, config))
            except RowError as error:
                yield f"row {row.source_row} would be rejected: {error.reason} ({error.detail})"
                continue
            sizes = ", ".join(f"{p.facts.format} {p.facts.width} x {p.facts.height}" for p in pictures)
            yield _fields(problem, sizes)
            if row.chain is not None:
                yield _chain(row.chain)
            yield "prompt:\n" + prompts.render(prompt, problem["question"], problem["choices"])
            break
        else:
            yield f"No usable row among the first {_TRIES}."


def _chain(chain: GivenChain) -> str:
    values = chain.values or [None] * len(chain.steps)
    lines = [
        f"  {'?' if v is None else format(v, '.3g')}  {s.strip()}" for s, v in zip(chain.steps, values, strict=True)
    ]
    return "\n".join([f"chain of {chain.policy or 'an unnamed model'}, a step a line behind its label:", *lines])


def _fields(problem: Row, sizes: str) -> str:
    shown = {**problem, "images": sizes or None, "truth": None}
    return "\n".join(f"{name}: {value}" for name, value in shown.items() if value not in (None, [], ""))
