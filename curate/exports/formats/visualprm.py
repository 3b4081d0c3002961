"""Format `visualprm`: VisualPRM400K's conversations, a step a turn, answered by + or -.

From OpenGVLab/InternVL, internvl_chat/tools/reasoning_data_pipeline/visualprm_data_pipeline_postprocess.py at 637c825:
a system turn, then for each step a human turn (the first one has the question before it) and "+" where the share of
right completions is above a threshold, 0 by default, else "-". `image` is a path, or a list of paths, or missing. The
wording of the system turn there is its authors'; ours is our own, and `system` takes any other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from curate.errors import RowError
from curate.exports.base import CardLayout, ExportRecord, Item, Options, judged
from curate.exports.formats.texts import ImageFolder, JsonLines, encoded
from curate.seeds import digest
from curate.text import prompts

# The published rule: any completion was right.
THRESHOLD = 0.0
# Stands for an image in the first human turn.
MARK = "<image>"
SYSTEM = (
    "You check a solution step by step. The first message has a question and the first step of a solution, every later "
    "one has the next step. Answer each with one character: + when the solution is right up to and with this step, - "
    "when anything in it so far is wrong."
)
_FIELDS = {
    "id": "Number of the row in its file, from 0.",
    "image": "The image's path below `images`; a list of paths where there are several, absent where there is none.",
    "conversations": "Turns of `from` (system, human, gpt) and `value`: a step a human turn, + or - the answer.",
    "rollout_id": "Identity of the rollout; not a part of the published format.",
}
_LOADING = """import json

for name, part in json.load(open("{folder}/meta.json")).items():
    rows = [json.loads(line) for line in open("{folder}/" + part["annotation"])]"""


def file_name(domain: str) -> str:
    """A domain as part of a file's name: no path, and no other domain's name."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", domain).strip(".-")[:80]
    return plain if plain == domain else f"{plain or 'domain'}-{digest(domain, length=8)}"


class Annotations(JsonLines):
    """The rows of one role and domain, and what `meta.json` says of them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.place, self.length = name, f"annotations/{name}_prm.jsonl", 0
        super().__init__(folder / self.place)

    def add(self, record: ExportRecord) -> None:
        """Another row."""
        super().add(record)
        self.length += 1

    def about(self) -> ExportRecord:
        """The entry of `meta.json`."""
        return {
            "root": "images",
            "annotation": self.place,
            "data_augment": False,
            "repeat_time": 1,
            "length": self.length,
        }


class VisualPrm:
    """JSON Lines by role and domain, a `meta.json` that names them, and a folder of images."""

    takes = frozenset({"threshold", "system"})

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._threshold = THRESHOLD if options.threshold is None else options.threshold
        self._system, self._own = options.system or SYSTEM, options.system is None
        self._files: dict[tuple[str, str], Annotations] = {}
        self._images = ImageFolder(folder / "images")

    def add(self, item: Item) -> int:
        """A labelled rollout."""
        found = judged(item, self._threshold)
        if any(MARK in step for step, _ in found):
            raise RowError("image-mark", f"a step spells {MARK}, which stands for an image here")
        key = (item.rollout.role, item.rollout.domain)
        if key not in self._files:
            self._files[key] = Annotations(self._folder, f"{key[0]}-{file_name(key[1])}")
        file = self._files[key]
        images = [self._images.name(image) for image in item.images]
        marks = f"{MARK}\n" * len(images)
        asked = prompts.problem_text(item.problem.question, item.problem.choices, len(images))
        if MARK in asked:
            raise RowError("image-mark", f"the question spells {MARK}, which stands for an image here")
        question = marks + asked
        turns = [{"from": "system", "value": self._system}]
        for place, (step, right) in enumerate(found):
            asked = step if place else f"### Question:\n{question}\n\n### Solution Process:\n{step}"
            turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": "+" if right else "-"}]
        record: dict[str, Any] = {"id": file.length}
        if images:
            record["image"] = images[0] if len(images) == 1 else images
        file.add(record | {"conversations": turns, "rollout_id": item.rollout.rollout_id})
        return len(found)

    def close(self) -> CardLayout:
        """Finish the files and name them in `meta.json`."""
        for file in self._files.values():
            file.close()
        meta = {file.name: file.about() for file in self._files.values()}
        (self._folder / "meta.json").write_bytes(encoded(meta) + b"\n")
        notes = [f"A step is answered by + where its label is above {self._threshold:g}."]
        if self._own:
            notes.append(
                "The system turn says what VisualPRM400K's says, in other words; a model that was tuned on those wants "
                "them (`--system FILE`)."
            )
        return CardLayout(_FIELDS, _LOADING, notes)
