"""VisualProcessBench (arXiv 2503.10291): are all wrong steps found, in chains about images that people judged.

Its definition (section 3.3): F1 of the right steps and F1 of the wrong ones, averaged; steps labelled 0 (neutral) do
not count. The authors' scorer (a VLMEvalKit dataset, class VL_PRMBenchmark in public forks) pools all sources, and
reads verdicts 1 and -1, so it picks no threshold. They released none for PRM scores; that of
JinYuanLi0012/Balanced-Info-MPRM (eval/prm/evaluate_visualprocessbench_prm.py) has macro F1 for each source, their mean
weighted by steps as the overall figure, and `score >= 0.5`, or with --auto the best threshold on the same data.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from curate.errors import RowError
from curate.recipe.chain_sections import AnyChainMap, SignChains
from curate.recipe.source_sections import ColumnMap, FilesSource
from curate.seeds import content_hash, digest
from curate.sources import columns
from curate.sources.roots import Root
from curate.sources.values import look, text_of
from curate.text.forms import FORMS
from prm import metrics
from prm.bench.suites.base import (
    CONFUSION_CELLS,
    Judge,
    LabelledRollout,
    Record,
    ScoredRollout,
    Values,
    confusion,
    line,
    question_of,
    steps_of,
    whole_number,
)

_LABELS = {1: True, -1: False, 0: None}
_UNKNOWN = "unknown"


class VisualProcessBench:
    """Groups are the benchmark's sources, MMMU to WeMath."""

    name = "visualprocessbench"
    title = "VisualProcessBench"
    splits: tuple[str, ...] = ("test",)
    columns = ColumnMap(question="question", answer=None, image="image", domain="data_source")
    chain: AnyChainMap = SignChains(steps="response.steps", labels="response.process_correctness")
    cells: tuple[str, ...] = CONFUSION_CELLS
    headline = "overall"
    shown: Mapping[str, str] = {"macro_f1": "macro F1", "f1_right": "F1 right", "f1_wrong": "F1 wrong"}
    stratified = True
    unique = False
    rule = (
        "macro F1 is the mean of the F1 of right and of wrong steps, neutral steps left out (arXiv 2503.10291); "
        "overall is the mean over sources weighted by their steps, the line `all` is over all steps together. The "
        "authors' scorer reads verdicts and picks no threshold."
    )

    def chains(self, record: Record, number: int | str, root: Root | None) -> Iterator[LabelledRollout]:
        """The one chain of a record. The hub's card declares `response` and `image` as texts: such are parsed."""
        record = {name: _parsed(value) if name in ("response", "image") else value for name, value in record.items()}
        steps = steps_of(record, "response.steps")
        labels = look(record, "response.process_correctness")
        if not isinstance(labels, list) or len(labels) != len(steps):
            raise RowError("unusable-label", f"not one label for each of {len(steps)} steps: {str(labels)[:80]}")
        values = [whole_number(label, "process_correctness") for label in labels]
        if not set(values) <= _LABELS.keys():
            raise RowError("unusable-label", f"a label other than 1, 0 and -1: {str(labels)[:80]}")
        source = text_of(record.get("data_source")) or _UNKNOWN
        # As `curate ingest visualprocessbench` reads it, so that it looks like what the PRM was trained on.
        asked = FORMS["instructed"](question_of(record, "question"), "")
        images, lacks = _images(record, root)
        yield LabelledRollout(
            name=str(number),
            problem=digest(source, asked.question, [content_hash(data) for data in images]),
            group=source,
            question=asked.question,
            choices=tuple(asked.choices),
            steps=steps,
            labels=tuple(_LABELS[value] for value in values),
            record=record,
            images=images,
            lacks=lacks,
        )

    def count(self, scored: ScoredRollout, judge: Judge) -> Sequence[float]:
        """The confusion of its labelled steps."""
        return confusion(judge.verdicts(scored))

    def measure(self, sums: NDArray[Any], groups: Sequence[str]) -> Values:
        """F1 of both classes and their mean of every source and of all steps; `overall` weighs sources by steps."""
        values: Values = {}
        weighted, steps = 0.0, 0.0
        for group, cells in zip((*groups, None), (*sums, sums.sum(axis=0)), strict=True):
            both, wrong, right, low = cells
            f1_right, f1_wrong = metrics.f1(both, wrong, low), metrics.f1(right, low, wrong)
            macro = None if f1_right is None or f1_wrong is None else (f1_right + f1_wrong) / 2
            values |= {(group, "macro_f1"): macro, (group, "f1_right"): f1_right, (group, "f1_wrong"): f1_wrong}
            if group is not None:
                # One source without a figure leaves the mean without one.
                weighted += cells.sum() * (float("nan") if macro is None else macro) if cells.sum() else 0.0
                steps += cells.sum()
        overall = weighted / steps if steps else float("nan")
        return values | {(None, "overall"): None if overall != overall else float(overall)}

    def files(self, scored: Sequence[ScoredRollout], judge: Judge, run: str) -> Iterator[tuple[str, str]]:
        """The rows as published with `prediction` (1 and -1, as the authors' scorer wants them, null without a score);
        and the list that the scorer of Balanced-Info-MPRM writes and reads, where a chain that lacks a score has none.
        """
        rows, items = [], []
        for place, each in enumerate(scored, start=1):
            verdicts = [judge.right(score) for score in each.scores]
            prediction = [None if verdict is None else 1 if verdict else -1 for verdict in verdicts]
            rows.append({**each.chain.record, "index": place, "prediction": prediction, "step_scores": each.scores})
            items.append(
                {
                    "data_source": each.chain.group,
                    "labels_per_step": look(each.chain.record, "response.process_correctness"),
                    "meta": {"image_paths": each.chain.record.get("image"), "question": each.chain.question},
                    "prm_scores": [list(each.scores) if each.whole else []],
                }
            )
        yield "visualprocessbench.jsonl", "".join(map(line, rows))
        yield "visualprocessbench_scores.json", json.dumps(items, ensure_ascii=False, default=lambda _: None, indent=1)


def _parsed(value: Any) -> Any:
    """What a text of JSON or of Python literals holds; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


_SOURCE = FilesSource(kind="files", name="images", path="-", columns=ColumnMap(image="image"))


def _images(record: Record, root: Root | None) -> tuple[tuple[bytes, ...], RowError | None]:
    """The record's images, or why there are none: its labels count all the same."""
    try:
        images = tuple(columns.images_of(record, _SOURCE, root))
    except RowError as error:
        return (), error
    return (images, None) if images else ((), RowError("no-image", "the row shows no image"))
