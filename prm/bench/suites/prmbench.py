"""PRMBench (arXiv 2501.03124): are steps found wrong in which one of nine kinds of errors was planted. Text only.

As ssmisya/PRMBench has it (mr_eval/tasks/prmtest_classified/task.py; the display in mr_visualize/.../form_latex_strs):
the steps in `error_steps`, counted from 1, are wrong, all others right; a number beyond the last step names none (100
of 6,216 rows have one). PRMScore = F1 / 2 + negative F1 / 2 with right steps as the positive class, 0 where that is
below 0; of multi_solutions, which have no wrong step, it is F1 alone. An F1 without a value is -1 there, also where
both precision and recall are 0. Aspects are means of their kinds; overall is of all steps together, without the
unchanged chains ("correct", of the rows of kind redundency), which have figures of their own. A step is right when its
score is above the model's threshold, 0.5 for most. Responses that are not valid are left out there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from curate.errors import RowError
from curate.recipe.chain_sections import AnyChainMap, ValueChains
from curate.recipe.source_sections import ColumnMap
from curate.seeds import digest
from curate.sources.roots import Root
from curate.sources.values import text_of
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

ASPECTS = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
CORRECT = "correct"
# The kind whose rows bring the unchanged chains, and the one without wrong steps.
_WITH_ORIGINAL, _ALL_RIGHT = "redundency", "multi_solutions"
TASK = "prmtest_classified"


class PRMBench:
    """Groups are the kinds of errors, and `correct` for unchanged chains."""

    name = "prmbench"
    title = "PRMBench"
    splits: tuple[str, ...] = ("train",)
    columns = ColumnMap(id="idx", question="modified_question", answer=None)
    chain: AnyChainMap = ValueChains(steps="modified_process", labels="error_steps")
    cells: tuple[str, ...] = CONFUSION_CELLS
    headline = "prmscore"
    shown: Mapping[str, str] = {"prmscore": "PRMScore", "f1": "F1", "negative_f1": "negative F1"}
    # The same problem comes with every kind of error.
    stratified = False
    unique = True
    rule = (
        "PRMScore is half the F1 of right and half that of wrong steps, of multi_solutions the first alone; overall is "
        "of all steps but those of unchanged chains (arXiv 2501.03124). Its scorer judges right what is above the "
        "model's threshold, 0.5 for most."
    )

    def chains(self, record: Record, number: int | str, root: Root | None) -> Iterator[LabelledRollout]:
        """The chain with errors; and the unchanged one, where the row brings it. Named as in the benchmark's loader."""
        index = text_of(record.get("idx")) or str(number)
        kind = text_of(record.get("classification"))
        if not kind or kind == CORRECT:
            raise RowError("unusable-label", f"classification is {kind}")
        if kind == _WITH_ORIGINAL:
            original = steps_of(record, "original_process")
            question = question_of(record, "original_question")
            yield self._chain(f"{CORRECT}_{index}", CORRECT, question, original, (), record)
        steps = steps_of(record, "modified_process")
        wrong = record.get("error_steps")
        if not isinstance(wrong, list):
            raise RowError("unusable-label", f"error_steps is no list: {str(wrong)[:80]}")
        places = [whole_number(place, "error_steps") for place in wrong]
        yield self._chain(f"{kind}_{index}", kind, question_of(record, "modified_question"), steps, places, record)

    def _chain(
        self, name: str, kind: str, question: str, steps: tuple[str, ...], wrong: Sequence[int], record: Record
    ) -> LabelledRollout:
        problem = digest(text_of(record.get("original_question")) or question)
        labels = tuple(place not in wrong for place in range(1, len(steps) + 1))
        return LabelledRollout(name, problem, kind, question, (), steps, labels, record)

    def count(self, scored: ScoredRollout, judge: Judge) -> Sequence[float]:
        """The confusion of its steps."""
        return confusion(judge.verdicts(scored))

    def measure(self, sums: NDArray[Any], groups: Sequence[str]) -> Values:
        """F1, negative F1 and PRMScore of every kind and of all; PRMScores of aspects whose kinds are all there."""
        values: Values = {}
        scores: dict[str, float] = {}
        counted = [place for place, group in enumerate(groups) if group != CORRECT]
        for group, cells in zip((*groups, None), (*sums, sums[counted].sum(axis=0)), strict=True):
            if not cells.any():
                values |= {(group, name): None for name in self.shown}
                continue
            both, wrong, right, low = cells.tolist()
            f1, negative = _f1(both, wrong, low), _f1(right, low, wrong)
            score = max(0.0, f1 if group == _ALL_RIGHT else f1 / 2 + negative / 2)
            values |= {(group, "f1"): _known(f1), (group, "negative_f1"): _known(negative)}
            # The unchanged chains have no PRMScore.
            if group != CORRECT:
                values[group, "prmscore"] = score
                scores |= {group: score} if group is not None else {}
        for aspect, kinds in ASPECTS.items():
            there = [scores[kind] for kind in kinds if kind in scores]
            values[None, aspect] = sum(there) / len(there) if len(there) == len(kinds) else None
        return values

    def files(self, scored: Sequence[ScoredRollout], judge: Judge, run: str) -> Iterator[tuple[str, str]]:
        """The checkpoint that the benchmark's toolkit resumes from and scores (`resume_from_ckpt: {prmtest_classified:
        FILE}`, with the model's name as here). A chain that lacks a score is not valid.
        """
        lines = []
        for each in scored:
            result: dict[str, Any] = {"idx": each.chain.name}
            if each.whole:
                labels = [judge.right(score) for score in each.scores]
                result["scores"] = {"step_level_validity_scores": each.scores, "step_level_validity_labels": labels}
            else:
                result |= {"scores": {}, "validity": False}
            lines.append(line({"task_name": TASK, "model_name": run, "results": result}))
        yield f"{TASK}.jsonl", "".join(lines)


def _f1(hits: float, false_alarms: float, misses: float) -> float:
    """F1 as the benchmark's scorer has it, whose precision and recall are -1 without a denominator."""
    if hits:
        return 2 * hits / (2 * hits + false_alarms + misses)
    # Both without a denominator, or both 0: it has no F1, and says -1.
    return -1.0 if bool(false_alarms) == bool(misses) else 0.0


def _known(value: float) -> float | None:
    return None if value < 0 else value
