"""Stage: training problems that the meta or test set shows are left out, by image and by text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from curate.recipe.sections import DecontaminateConfig, DecontaminateOtherImages
from curate.stages.overlap import problems as reading
from curate.stages.overlap import texts
from curate.stages.overlap.drops import drop, write
from curate.stages.overlap.images import Gallery, Key
from curate.stages.overlap.problems import Asked, Problem
from curate.tables.lineage import Ledger
from curate.tables.rows import DropRow
from curate.tables.store import Store


def decontaminate(config: DecontaminateConfig, workspace: Store) -> Ledger:
    """Training problems that show an image of the clean sets, or have their text; the ledger counts train problems.

    A text counts where neither side has an image; with other images only where the recipe asks for it, and then
    only with the same answer. The same text with another gold answer is a contradiction; it is dropped, too.
    """
    every = reading.read(workspace)
    ours = [problem for problem in every if problem.role == "train"]
    theirs = [problem for problem in every if problem.role in config.clean]
    gallery = Gallery(workspace, config.image_distance)
    near = gallery.near(_images(ours), _images(theirs)) if ours and theirs else {}
    clean = _Clean(theirs, near, config)
    dropped = {}
    for problem in ours:
        row = clean.image(problem) or clean.text(problem)
        if row is not None:
            dropped[problem.problem_id] = row
    return write(workspace, "decontaminate", config.model_dump(mode="json"), ours, dropped)


def _images(problems: Sequence[Problem]) -> set[str]:
    return {key for problem in problems for key in problem.image_hashes}


class _Clean:
    """The problems that training must not show."""

    def __init__(self, problems: Sequence[Problem], near: Mapping[Key, int], config: DecontaminateConfig) -> None:
        self._config = config
        self._shown: dict[str, list[Problem]] = defaultdict(list)
        for problem in problems:
            for key in dict.fromkeys(problem.image_hashes):
                self._shown[key].append(problem)
        self._near: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for (one, other), bits in near.items():
            if other in self._shown:
                self._near[one].append((other, bits))
        # By what is asked and by the right answer: of thousands that ask the same, one of each answer is held against.
        self._asked: dict[Asked, dict[str | None, Problem]] = defaultdict(dict)
        for problem in filter(self._telling, problems):
            self._asked[problem.asked].setdefault(problem.right, problem)
        firsts = {asked: next(iter(found.values())) for asked, found in self._asked.items()}
        self._index: texts.Near[Asked] = texts.Near(config.text_similarity, [each.text for each in firsts.values()])
        for asked, problem in firsts.items():
            self._index.add(asked, problem.text)

    def _telling(self, problem: Problem) -> bool:
        """Whether the text alone can tell a problem."""
        if not problem.image_hashes:
            return True
        if not isinstance(self._config, DecontaminateOtherImages):
            return False
        return len(texts.normal(problem.question)) >= self._config.min_characters

    def image(self, problem: Problem) -> DropRow | None:
        """The row of a problem that shows one of the clean sets' images."""
        for key in problem.image_hashes:
            near = [(key, 0)] if key in self._shown else sorted(self._near.get(key, ()), key=lambda each: each[1])
            if near:
                (other, bits), right = near[0], problem.right
                # Of the problems that show it, the one that is named asks the same, if any does.
                named = min(self._shown[other], key=lambda each: (each.asked != problem.asked, each.right != right))
                alike = texts.jaccard(texts.shingles(problem.text), texts.shingles(named.text))
                return drop(problem, named, "decontaminate", "image-overlap", bits, alike)
        return None

    def text(self, problem: Problem) -> DropRow | None:
        """The row of a problem whose text the clean sets have."""
        if not self._telling(problem):
            return None
        for asked, similarity in self._index.find(problem.text):
            found = self._asked[asked]
            named = found.get(problem.right) or next(iter(found.values()))
            agrees = problem.agrees(named)
            if (problem.image_hashes or named.image_hashes) and not agrees:
                continue
            contradicts = agrees is False and asked == problem.asked
            reason = "contradiction" if contradicts else "text-overlap"
            return drop(problem, named, "decontaminate", reason, None, similarity)
        return None
