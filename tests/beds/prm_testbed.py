"""Synthetic examples with known truth, as rows of the tables that the trainer reads."""

from __future__ import annotations

import io
import random

from curate.seeds import content_hash
from curate.sources.synthetic import chain as chains
from curate.sources.synthetic.tasks import TASKS
from curate.tables.rows import ExampleRow, ImageRow, ProblemRow
from curate.tables.schema import EXAMPLES, IMAGES, PROBLEMS
from curate.tables.store import Store
from prm.data.examples import Example


def example_rows(count: int, role: str, domains: tuple[str, ...], seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Rows of `examples` and `images`: chains of synthetic tasks with random slips, labelled by exact truth."""
    rng, tasks = random.Random(f"{role}-{seed}"), [task for task in TASKS.values() if task.name != "needles"]
    examples, images = [], {}
    for index in range(count):
        task = tasks[index % len(tasks)]
        facts = task.sample(rng)
        buffer = io.BytesIO()
        task.image(facts).save(buffer, "PNG")
        key = content_hash(buffer.getvalue())
        slips = [step for step in range(5) if rng.random() < 0.2]
        slots, truth = chains.solve(task, facts, slips, rng), chains.solve(task, facts)
        lines = chains.render(task, slots).split("\n")
        steps = [line + "\n" for line in lines[:4]] + ["\n".join(lines[4:])]
        right = [slots[: step + 1] == truth[: step + 1] for step in range(5)]
        examples.append(
            {
                "rollout_id": f"{role}-{seed}-{index:03d}-000",
                "problem_id": f"{role}-{seed}-{index:03d}",
                "domain": domains[index % len(domains)],
                "role": role,
                "sample_index": 0,
                "question": task.question(facts),
                "choices": [],
                "image_hashes": [key],
                "steps": steps,
                "answer": str(slots[-1]["answer"]),
                "outcome": right[-1],
                "values": [0.9 if ok else 0.1 for ok in right],
                "weights": [1.0] * 5,
                "verdicts": [None] * 5,
                "masks": [None] * 5,
            }
        )
        images[key] = {
            "image_hash": key,
            "problem_id": examples[-1]["problem_id"],
            "bytes": buffer.getvalue(),
            "format": "PNG",
            "width": 96,
            "height": 96,
            "perceptual_hash": "0",
            "orientation": None,
            "has_alpha": False,
            "note": None,
        }
    return examples, list(images.values())


def fill(workspace: Store, role: str, examples: list[dict], images: list[dict]) -> None:
    """Commit rows of one role, with the problems that they belong to."""
    problems = {row["problem_id"]: row for row in examples}
    workspace.partition(PROBLEMS, role).commit_all(
        ProblemRow(
            problem_id=key,
            domain=row["domain"],
            role=row["role"],
            source=role,
            source_row=key,
            revision=None,
            licence=None,
            question=row["question"],
            choices=row["choices"],
            answer=row["answer"],
            accepted=[],
            answer_type="number",
            tolerance=None,
            image_hashes=row["image_hashes"],
            truth=None,
        )
        for key, row in problems.items()
    )
    workspace.partition(EXAMPLES, role).commit_all(ExampleRow(**row) for row in examples)
    workspace.partition(IMAGES, role).commit_all(ImageRow(**row) for row in images)


def to_examples(rows: list[dict]) -> list[Example]:
    """What `read_examples` makes of such rows."""
    fields = Example.__dataclass_fields__
    return [Example(**{k: tuple(v) if isinstance(v, list) else v for k, v in r.items() if k in fields}) for r in rows]
