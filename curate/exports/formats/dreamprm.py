"""Format `dreamprm`: the two JSON files that DreamPRM's public code trains on, and the images beside them.

From coder-qicao/DreamPRM at b1ac486 (README.md, data.py). A row of `train.json` is one prefix: `id` of the question,
`sid` of the step from 1, `input` (the question), `add` (the chain up to that step), `ground_truth`, `image_path`,
`dataset` (the domain), `score` right of `times` trials, `accuracy`. A row of `meta.json` is a whole chain: `id`,
`true_false`, `input` ("Question: ...", "Options: ...", an empty line, the response), `image_path`. Its loader finds the
steps of a response by the words "Step 1", "Step 2", ... and takes the last one to end at "Final answer"; what it cannot
find it scores as an empty text. Each row shows exactly one image.

Every row has one key more, `curate`, with what the format has no place for; `curate ingest` reads it when it is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from curate.errors import RowError
from curate.exports.base import CardLayout, ExportRecord, Item, Options, check_labelled
from curate.exports.formats.texts import Array, ImageFolder
from curate.tables.rows import ProblemRow
from curate.text import prompts

_NUMBER = re.compile(r"Step[\s:]*(\d+)", re.IGNORECASE)
_FINAL = "Final answer"
# The loader asks for as many steps as the largest number says.
_MAX = 100
_FIELDS = {
    "id": "Number of the question.",
    "sid": "train: number of the step that the prefix ends with, from 1.",
    "input": "train: the question; meta: the question and the whole response.",
    "add": "train: the chain up to that step.",
    "ground_truth": "train: the gold answer; null where there is none.",
    "image_path": "The image's path below the folder of the export.",
    "dataset": "train: the domain.",
    "score, times": "train: right ones of all graded completions of the prefix; null where there are none: the last "
    "step's label is the chain's own outcome.",
    "accuracy": "train: the label in [0, 1]; not score / times where labels are pooled.",
    "true_false": "meta: whether the chain's answer is right.",
    "curate": "What the format has no place for: question, choices, accepted answers and their type, rollout, outcome.",
}
_LOADING = """import json

train = json.load(open("{folder}/train.json"))
meta = json.load(open("{folder}/meta.json"))"""


def cuts(text: str) -> list[str]:
    """The prefixes that the public loader cuts a meta row's `input` into; one may be empty."""
    last = max((int(number) for number in _NUMBER.findall(text)), default=0)
    return [_cut(text, step) for step in range(1, last + 1)] if last <= _MAX else []


def _cut(text: str, step: int) -> str:
    if f"Step {step + 1}" in text:
        return text.partition(f"Step {step + 1}")[0]
    return text.partition(_FINAL)[0] if _FINAL in text and f"Step {step}" in text else ""


def _bare(text: str) -> str:
    """Without white space and marks of headings at the end, which may belong to the next step."""
    return text.rstrip(" \n\t\r#*_->")


def is_read(head: str, steps: Sequence[str]) -> bool:
    """Whether the loader finds just these steps behind the question; of the last one what is before the answer."""
    found = cuts(head + "".join(steps))
    wanted = ["".join(steps[:place]) for place in range(1, len(steps) + 1)]
    if not steps or len(found) != len(steps) or _FINAL not in steps[-1]:
        return False
    before = "".join(steps[:-1])
    wanted[-1] = before + steps[-1].partition(_FINAL)[0]
    behind = _bare(head + before)
    return [_bare(each) for each in found] == [_bare(head + each) for each in wanted] and behind != _bare(found[-1])


def response_of(head: str, item: Item) -> str:
    """The response as it is where the loader reads it, else with numbered steps; RowError where neither can be read."""
    if is_read(head, item.steps):
        return "".join(item.steps)
    texts = [f"Step {place}: {step.strip()}\n\n" for place, step in enumerate(item.steps, start=1)]
    if not any(_FINAL in text for text in texts):
        if item.rollout.answer is None:
            raise RowError("no-final-answer", "the chain comes to no answer, and DreamPRM's loader looks for one")
        texts[-1] += f"{_FINAL}: {item.rollout.answer}"
    if not is_read(head, texts):
        raise RowError("unreadable-steps", "DreamPRM's loader would find other steps in the text than it has")
    return "".join(texts).rstrip()


class DreamPrmFormat:
    """`train.json` of prefixes, `meta.json` of chains, and a folder of images."""

    takes = frozenset[str]()

    def __init__(self, folder: Path, options: Options) -> None:
        self._files = {role: Array(folder / f"{role}.json") for role in ("train", "meta")}
        self._images = ImageFolder(folder / "images")
        self._problem: str | None = None
        self._number = -1
        self._renumbered = 0

    def add(self, item: Item) -> int:
        """A labelled training rollout, or a meta rollout with an outcome; of a problem with one image."""
        role, count = item.rollout.role, len(item.images)
        if role not in self._files:
            raise RowError("no-such-set", f"DreamPRM has train and meta rows, this one is of the {role} set")
        rows = self._train(item) if role == "train" else [self._meta(item)]
        if count != 1:
            raise RowError("several-images" if count else "no-image", f"DreamPRM shows one image a row, not {count}")
        if item.problem.problem_id != self._problem:
            self._problem, self._number = item.problem.problem_id, self._number + 1
        path = f"images/{self._images.name(item.images[0])}"
        for row in rows:
            self._files[role].add({"id": self._number, **row, "image_path": path, "curate": _besides(item)})
        return len(rows) if role == "train" else len(item.steps)

    def _train(self, item: Item) -> list[ExportRecord]:
        check_labelled(item)
        rows = list[ExportRecord]()
        for place, label in enumerate(item.labels, start=1):
            if label is None or label.value is None:
                continue
            tried = bool(label.m)
            rows.append(
                {
                    "sid": place,
                    "input": prompts.problem_text(item.problem.question, item.problem.choices, len(item.images)),
                    "add": "".join(item.steps[:place]),
                    "ground_truth": item.problem.answer,
                    "dataset": item.rollout.domain,
                    "score": label.k if tried else None,
                    "times": label.m if tried else None,
                    "accuracy": label.value,
                }
            )
        if not rows:
            raise RowError("undefined", "no step has enough graded completions for a label")
        return rows

    def _meta(self, item: Item) -> ExportRecord:
        if not item.steps:
            raise RowError("no-steps", "the rollout has no text")
        if item.rollout.outcome is None:
            raise RowError("undecided", "a meta row needs an outcome")
        head, plain = _head(item.problem), "".join(item.steps)
        response = response_of(head, item)
        self._renumbered += response != plain
        return {"true_false": item.rollout.outcome, "input": head + response}

    def close(self) -> CardLayout:
        """Finish the files."""
        for file in self._files.values():
            file.close()
        notes = ["A prefix without a label has no row. The public loader reads paths from the folder that it runs in."]
        if self._renumbered:
            notes.append(f"The steps of {self._renumbered:,} meta rows were numbered anew (Step 1: ...), because the "
                         "public loader would not have found them.")  # fmt: skip
        return CardLayout(_FIELDS, _LOADING, notes)


def _head(problem: ProblemRow) -> str:
    """What stands before a meta row's response."""
    options, images = [" ".join(choice.split()) for choice in problem.choices], len(problem.image_hashes)
    listed = prompts.problem_text("", options, images).lstrip("\n").replace("\n", " ")
    question = prompts.problem_text(problem.question, (), images)
    return f"Question: {question}\n" + (f"Options: {listed}\n" if listed else "") + "\n"


def _besides(item: Item) -> ExportRecord:
    problem, rollout = item.problem, item.rollout
    kept = {
        name: getattr(problem, name)
        for name in ("question", "choices", "answer", "accepted", "answer_type", "tolerance")
    }
    kept |= {"domain": rollout.domain, "rollout_id": rollout.rollout_id, "outcome": rollout.outcome}
    return kept | ({"steps": list(item.steps)} if rollout.role == "meta" else {})
