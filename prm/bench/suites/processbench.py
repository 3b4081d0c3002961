"""ProcessBench (arXiv 2412.06559): is the first wrong step found, in solutions of four kinds of maths problems.

As QwenLM/ProcessBench has it (code/run_eval.py, run_eval_prm_rlhflow.py): a chain's prediction is the index of the
first step that is judged wrong, -1 where none is; `match` is whether it equals `label`; the figure of a subset is the
harmonic mean of the share of matches among chains with an error and among chains without; the benchmark's is the mean
over subsets (run_eval_prm_trl.py, commit 04d347e). A prediction that could not be read is null there and matches
nothing. PRMs with labels of their own are judged by these; for scores the threshold was chosen by the F1 on gsm8k
(QwenLM/ ProcessBench issue 3, the authors).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from curate.errors import RowError
from curate.recipe.chain_sections import AnyChainMap, IndexChains
from curate.recipe.source_sections import NAME, ColumnMap
from curate.seeds import digest
from curate.sources.roots import Root
from curate.sources.values import text_of
from prm import metrics
from prm.bench.suites.base import (
    Judge,
    LabelledRollout,
    Record,
    ScoredRollout,
    Values,
    line,
    question_of,
    steps_of,
    whole_number,
)


class ProcessBench:
    """Groups are the subsets; a row's id begins with its subset's name ("gsm8k-0")."""

    name = "processbench"
    title = "ProcessBench"
    splits: tuple[str, ...] = ("gsm8k", "math", "olympiadbench", "omnimath")
    columns = ColumnMap(id="id", question="problem", answer=None)
    chain: AnyChainMap = IndexChains(steps="steps", labels="label", labels_form="first-error")
    cells: tuple[str, ...] = ("error", "error-found", "correct", "correct-left-alone")
    headline = "average_f1"
    shown: Mapping[str, str] = {"f1": "F1", "error_accuracy": "error acc", "correct_accuracy": "correct acc"}
    stratified = True
    unique = False
    rule = (
        "F1 is the harmonic mean of the shares of chains with an error whose first wrong step is found and of chains "
        "without one that are left alone; the average is over subsets (arXiv 2412.06559). Its authors choose the "
        "threshold of PRMs that give scores by the F1 on gsm8k: `tune: gsm8k`."
    )

    def chains(self, record: Record, number: int | str, root: Root | None) -> Iterator[LabelledRollout]:
        """The one chain of a record."""
        name, problem = text_of(record.get("id")) or str(number), question_of(record, "problem")
        steps = steps_of(record, "steps")
        label = whole_number(record.get("label"), "label")
        if not -1 <= label < len(steps):
            raise RowError("unusable-label", f"label {label} is no index of {len(steps)} steps")
        right = len(steps) if label == -1 else label
        subset = name.rpartition("-")[0] or "unknown"
        # It names a file.
        if not re.fullmatch(NAME, subset):
            raise RowError("unusable-value", f"the id names no subset: {name[:80]}")
        yield LabelledRollout(
            name=name,
            problem=digest(subset, problem),
            group=subset,
            question=problem,
            choices=(),
            steps=steps,
            labels=tuple(place < right if place <= right else None for place in range(len(steps))),
            record=record,
        )

    def prediction(self, scored: ScoredRollout, judge: Judge) -> int | None:
        """Index of the first step that is judged wrong, -1 where none is; None where a step has no score."""
        scores = [score for score in scored.scores if score is not None]
        if len(scores) < len(scored.scores):
            return None
        found = metrics.first_error(scores, judge.threshold)
        return -1 if found is None else found

    def count(self, scored: ScoredRollout, judge: Judge) -> Sequence[float]:
        """One chain: whether it has an error, and whether the prediction matches."""
        if not judge.counts(scored):
            return [0.0] * len(self.cells)
        label = int(scored.chain.record["label"])
        match = float(self.prediction(scored, judge) == label)
        return [0.0, 0.0, 1.0, match] if label == -1 else [1.0, match, 0.0, 0.0]

    def measure(self, sums: NDArray[Any], groups: Sequence[str]) -> Values:
        """Both accuracies and F1 of every subset, and the mean F1; no mean where a subset has none."""
        values: Values = {}
        averaged: list[float | None] = []
        for group, (wrong, found, right, kept) in zip(groups, sums.tolist(), strict=True):
            error = found / wrong if wrong else None
            correct = kept / right if right else None
            f1 = None if error is None or correct is None else metrics.harmonic(error, correct)
            values |= {(group, "f1"): f1, (group, "error_accuracy"): error, (group, "correct_accuracy"): correct}
            averaged.append(f1)
        known = [f1 for f1 in averaged if f1 is not None]
        return values | {(None, "average_f1"): metrics.mean(known) if len(known) == len(averaged) else None}

    def files(self, scored: Sequence[ScoredRollout], judge: Judge, run: str) -> Iterator[tuple[str, str]]:
        """{subset}_error.jsonl and {subset}_correct.jsonl: the rows as published with `prediction` and `match`."""
        parts: dict[str, list[str]] = defaultdict(list)
        for each in scored:
            found, label = self.prediction(each, judge), int(each.chain.record["label"])
            row = {**each.chain.record, "prediction": found, "match": found == label, "step_scores": each.scores}
            name = f"{each.chain.group}_{'correct' if label == -1 else 'error'}.jsonl"
            parts[name].append(line(row))
        for name, lines in sorted(parts.items()):
            yield name, "".join(lines)
