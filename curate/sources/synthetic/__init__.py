"""Source: problems drawn by the program, with exact answers, exact step truth, and defects planted on purpose.

The known-truth testbed: which domains are bad, which steps of a chain are wrong and how much best-of-N can gain are all
known, so the whole chain can be measured.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from curate.errors import UserError
from curate.recipe.source_sections import SyntheticSource
from curate.seeds import rng
from curate.sources.base import BadRow, SourceRow
from curate.sources.synthetic import chain
from curate.sources.synthetic.base import F, Facts, SyntheticTask
from curate.sources.synthetic.tasks import TASKS

# Of a domain with wrong gold answers, this share of rows is wrong.
WRONG_GOLD_SHARE = 0.7
# A domain of near duplicates has this many problems for each one that differs.
COPIES = 8
# After so many draws in a row that were there already, a task has no more problems to give.
_MISSES = 2000
# The step that states the rule, see `tasks`.
_RULE_STEP = 2


def leak(question: str, answer: str) -> str:
    """A question that gives its answer away. It does harm where a policy takes the bait; the embedded one does not."""
    return f"{question} (answer: {answer})"


def judge_truth(truth: str, steps: Sequence[str]) -> list[bool]:
    """Exact truth of each step of a chain for a problem's `truth` column."""
    known = json.loads(truth)
    task = TASKS[known["task"]]
    return chain.judge(task, task.facts(**known["facts"]), steps)


class Synthetic:
    """Rows of one synthetic source; the same configuration gives the same bytes."""

    def __init__(self, config: SyntheticSource, base: Path | None = None) -> None:
        """The problems are drawn, so nothing is relative to `base`."""
        self._config, self._task = config, TASKS[config.task]

    def rows(self) -> Iterator[SourceRow | BadRow]:
        """All rows."""
        count = min(self._config.rows, self._config.limit or self._config.rows)
        every = self._facts()
        for index in range(count):
            yield self._row(index, every)

    def _facts(self) -> list[Facts]:
        """Facts of all rows, none twice but for near duplicates. Seeded by name, so that sources share none by seed."""
        config, found, seen = self._config, list[Facts](), set[str]()
        random = rng("synthetic", config.name, config.seed, config.task)
        wanted = -(-config.rows // COPIES) if config.defect == "near-duplicates" else config.rows
        misses = 0
        while len(found) < wanted and misses < _MISSES:
            facts = self._task.sample(random)
            key = json.dumps(vars(facts), sort_keys=True)
            misses = misses + 1 if key in seen else 0
            if not misses:
                seen.add(key)
                found.append(facts)
        if len(found) < wanted:
            raise UserError(f'Source "{config.name}": task {config.task} has only {len(found)} problems; lower rows.')
        return [found[index % wanted] for index in range(config.rows)]

    def _row(self, index: int, every: Sequence[Facts]) -> SourceRow:
        facts, task = every[index], self._task
        question, answer, shown = task.question(facts), chain.gold(task, facts), facts
        match self._config.defect:
            case "wrong-gold":
                answer = self._wrong_gold(index, answer)
            case "wrong-rule":
                answer = _by_wrong_rule(task, facts, answer, index)
            case "swapped-image":
                shown = every[(index + 1) % len(every)]
            case "leaked-answer":
                question = leak(question, answer)
        return SourceRow(
            source_row=str(index),
            question=question,
            answer=answer,
            choices=task.choices,
            images=(self._png(shown, index),),
            answer_type=task.answer_type,
            truth=json.dumps({"task": task.name, "facts": vars(facts)}, sort_keys=True),
        )

    def _wrong_gold(self, index: int, right: str) -> str:
        random = rng("wrong-gold", self._config.name, self._config.seed, index)
        if random.random() >= WRONG_GOLD_SHARE:
            return right
        return _until(lambda: chain.gold(self._task, self._task.sample(random)), lambda answer: answer != right)

    def _png(self, facts: Facts, index: int) -> bytes:
        image = self._task.image(facts)
        if self._config.defect == "near-duplicates":
            _touch(image, index // (-(-self._config.rows // COPIES)))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


def _until(draw: Callable[[], str], good: Callable[[str], bool]) -> str:
    for _ in range(1000):
        value = draw()
        if good(value):
            return value
    raise UserError("A synthetic defect could not be planted: every drawn answer is the right one; use another task.")


def _by_wrong_rule(task: SyntheticTask[F], facts: F, right: str, index: int) -> str:
    """What a careful reader gets who takes the wrong rule; the right answer where both rules agree."""
    for attempt in range(20):
        random = rng("wrong-rule", task.name, index, attempt)
        answer = chain.solve(task, facts, [_RULE_STEP], random)[-1]["answer"]
        if answer != right:
            return answer
    return right


def _touch(image: Image.Image, copy: int) -> None:
    """One stray grey pixel, at a place of its own for each copy."""
    if copy:
        side: Any = image.size[0]
        image.putpixel((side - 1 - copy % side, side - 1 - copy // side), (128, 128, 128))
