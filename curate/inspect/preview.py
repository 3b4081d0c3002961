"""What a command would do, without doing it: ingest's first rows, rollout's prompts and requests. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from curate.engines import build
from curate.errors import RowError
from curate.pipeline import Recipe, located, prompt_of
from curate.sources import open_source
from curate.sources.base import BadRow, GivenChain
from curate.stages import rollout
from curate.stages.ingest import rows
from curate.tables.rows import ProblemRow
from curate.tables.store import Store
from curate.text import prompts

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
                problem, images = rows.problem_of(row, source, rows.looked(row, config))
            except RowError as error:
                yield f"row {row.source_row} would be rejected: {error.reason} ({error.detail})"
                continue
            sizes = ", ".join(f"{p.facts.format} {p.facts.width} x {p.facts.height}" for p in images)
            yield _fields(problem, sizes)
            if row.chain is not None:
                yield _chain(row.chain)
            yield "prompt:\n" + prompts.render(prompt, problem.question, problem.choices, len(problem.image_hashes))
            break
        else:
            yield f"No usable row among the first {_TRIES}."


def _chain(chain: GivenChain) -> str:
    values = chain.values or [None] * len(chain.steps)
    lines = [
        f"  {'?' if v is None else format(v, '.3g')}  {s.strip()}" for s, v in zip(chain.steps, values, strict=True)
    ]
    return "\n".join([f"chain of {chain.policy or 'an unnamed model'}, a step a line behind its label:", *lines])


def _fields(problem: ProblemRow, sizes: str) -> str:
    shown = {**asdict(problem), "images": sizes or None, "truth": None}
    return "\n".join(f"{name}: {value}" for name, value in shown.items() if value not in (None, [], ""))


def rollouts(recipe: Recipe, workspace: Store) -> Iterator[str]:
    """The first prompt of each domain as the policy would get it, and what a run would ask for."""
    config = located(recipe, workspace)
    build(config.engine)  # refuses what a run would refuse, and starts nothing
    counts = rollout.pending(config, workspace, recipe.seed)
    first: dict[str, ProblemRow] = {}
    for problem in rollout.RolloutWork(config, workspace).rows(ProblemRow):
        if problem.problem_id < first.setdefault(problem.domain, problem).problem_id:
            first[problem.domain] = problem
    for domain, problem in sorted(first.items()):
        yield f"# {domain} ({problem.role}), problem {problem.problem_id}"
        yield f"images: {len(problem.image_hashes)}, then:\n" + prompts.render(
            config.prompt, problem.question, problem.choices, len(problem.image_hashes)
        )
    yield f"{counts.pending:,} requests and {counts.samples - counts.there:,} samples are pending."
