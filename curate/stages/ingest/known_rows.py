"""What other sources brought to the workspace before: the rows that a new row is held against."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from curate.errors import RowError
from curate.graders.base import WithChoices
from curate.seeds import digest
from curate.stages.golds import right_of
from curate.tables.id_map import IdMap, NearKeys
from curate.tables.rows import ProblemRow, columns_of
from curate.tables.schema import IMAGES, PROBLEMS, ROLES, ROLLOUTS
from curate.tables.store import MAIN, Partition, Store

# So many problems are read at a time.
_BATCH = 20_000


@columns_of(PROBLEMS)
@dataclass(frozen=True, slots=True)
class KnownProblem:
    """What a new problem is held against."""

    problem_id: str
    role: str
    source: str
    question: str
    choices: Sequence[str]
    answer: str | None
    image_hashes: Sequence[str]


class KnownRows:
    """What the workspace holds: images, chains, the source of each problem, and which role an image serves."""

    def __init__(self, workspace: Store, besides: str) -> None:
        """Read what is known of every source but `besides`, whose own rows are read again; of that one the images
        only.
        """
        self._names: list[str] = [besides]
        self._images, self._chains = IdMap(), IdMap()
        self._problems, self._image_roles, self._question_roles = IdMap(), IdMap(), IdMap()
        self._golds = IdMap()
        self._images.add(first_keys(workspace.partitions(IMAGES)))
        others = [part for part in workspace.partitions(ROLLOUTS) if part.folder.name not in (MAIN, besides)]
        self._chains.add(first_keys(others))
        # A few at a time: rows of a million problems as Python objects would fill the memory.
        every = (row for row in workspace.rows(KnownProblem) if row.source != besides)
        while problems := list(islice(every, _BATCH)):
            near = self.near(problems)
            for row in problems:
                near.add(row)

    def near(self, problems: Sequence[KnownProblem | ProblemRow], chains: Collection[str] = ()) -> KnownChunk:
        """What is known of these problems and chains; one chunk at a time is looked at."""
        hashes = {key for row in problems for key in row.image_hashes}
        names = [row.problem_id for row in problems]
        questions = [_question_key(row) for row in problems if not row.image_hashes]
        return KnownChunk(
            names=self._names,
            images=self._images.near(hashes),
            chains=self._chains.near(chains),
            problems=self._problems.near(names),
            golds=self._golds.near(names),
            image_roles=self._image_roles.near(hashes),
            question_roles=self._question_roles.near(questions),
        )


@dataclass(frozen=True)
class KnownChunk:
    """What the workspace holds of the problems of one chunk; what is added is remembered by its `KnownRows`.

    `names` are those of sources, by the numbers that `problems` has.
    """

    names: list[str]
    images: NearKeys
    chains: NearKeys
    problems: NearKeys
    golds: NearKeys
    image_roles: NearKeys
    question_roles: NearKeys

    def source_of(self, problem_id: str) -> str | None:
        """The source that a problem came from; None for a new one."""
        place = self.problems.get(problem_id)
        return None if place is None else self.names[place]

    def contradicts(self, problem: ProblemRow) -> bool:
        """Whether the same problem came in with another gold answer."""
        held, gold = self.golds.get(problem.problem_id), _gold_print(problem)
        return held is not None and gold is not None and held != gold

    def roles_of(self, problem: ProblemRow) -> dict[str, str | None]:
        """What stands for the problem (its images; without one its question) -> the role that it serves already."""
        found = {key: self.image_roles.get(key) for key in problem.image_hashes}
        if not found:
            found = {"question": self.question_roles.get(_question_key(problem))}
        return {key: None if place is None else ROLES[place] for key, place in found.items()}

    def add(self, row: KnownProblem | ProblemRow) -> None:
        """Remember a problem; the first role of an image stays."""
        if row.source not in self.names:
            self.names.append(row.source)
        self.problems.setdefault(row.problem_id, self.names.index(row.source))
        gold = _gold_print(row)
        if gold is not None:
            self.golds.setdefault(row.problem_id, gold)
        role = ROLES.index(row.role)
        for key in row.image_hashes:
            self.image_roles.setdefault(key, role)
        if not row.image_hashes:
            self.question_roles.setdefault(_question_key(row), role)


def first_keys(partitions: Iterable[Partition]) -> list[str]:
    """The first key column of every row of these partitions."""
    return [key for part in partitions for key in part.read([part.table.key[0]])[0].to_pylist()]


def _gold_print(problem: WithChoices) -> int | None:
    """The gold answer as a small number; None without one."""
    right = right_of(problem)
    return None if right is None else zlib.crc32(right.encode()) >> 1


def _question_key(row: KnownProblem | ProblemRow) -> str:
    return digest(row.question, row.choices)


def check_role(problem: ProblemRow, seen: KnownChunk) -> None:
    """Each image (or text-only question) is in one role only: the later row yields."""
    for key, role in seen.roles_of(problem).items():
        if role is not None and role != problem.role:
            raise RowError(f"overlaps-{role}", f"{key} is in the {role} set, which was ingested first")
