"""What other sources brought to the workspace before: the rows that a new row is held against."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Sequence

from curate.errors import RowError
from curate.seeds import digest
from curate.stages.golds import right_of
from curate.tables.id_map import IdMap
from curate.tables.schema import IMAGES, PROBLEMS, ROLES, ROLLOUTS, Row
from curate.tables.store import MAIN, Partition, Store

# So many problems are read at a time.
_BATCH = 20_000


class KnownRows:
    """What the workspace holds: images, chains, the source of each problem, and which role an image serves.

    It answers for the problems (and chains) that were last brought near: those of a chunk.
    """

    def __init__(self, workspace: Store, besides: str) -> None:
        """Read what is known of every source but `besides`, whose own rows are read again; of that one the images
        only.
        """
        self._names: list[str] = [besides]
        self.images, self.chains = IdMap(), IdMap()
        self._problems, self._image_roles, self._question_roles = IdMap(), IdMap(), IdMap()
        self._golds = IdMap()
        self.images.add(first_keys(workspace.partitions(IMAGES)))
        others = [part for part in workspace.partitions(ROLLOUTS) if part.folder.name not in (MAIN, besides)]
        self.chains.add(first_keys(others))
        columns = ["problem_id", "role", "source", "question", "choices", "answer", "image_hashes"]
        # Batch by batch: rows of a million problems as Python objects would fill the memory.
        for batch in workspace.read(PROBLEMS, columns).to_batches(max_chunksize=_BATCH):
            problems = [row for row in batch.to_pylist() if row["source"] != besides]
            self.bring_near(problems)
            for row in problems:
                self.add(row)

    def bring_near(self, problems: Sequence[Row], chains: Collection[str] = ()) -> None:
        """These are asked for next."""
        hashes = {key for row in problems for key in row["image_hashes"]}
        self.images.bring_near(hashes)
        self._image_roles.bring_near(hashes)
        self._problems.bring_near([row["problem_id"] for row in problems])
        self._golds.bring_near([row["problem_id"] for row in problems])
        self._question_roles.bring_near([_question_key(row) for row in problems if not row["image_hashes"]])
        self.chains.bring_near(chains)

    def source_of(self, problem_id: str) -> str | None:
        """The source that a problem came from; None for a new one."""
        place = self._problems.get(problem_id)
        return None if place is None else self._names[place]

    def contradicts(self, problem: Row) -> bool:
        """Whether the same problem came in with another gold answer."""
        held, gold = self._golds.get(problem["problem_id"]), _gold_print(problem)
        return held is not None and gold is not None and held != gold

    def roles_of(self, problem: Row) -> dict[str, str | None]:
        """What stands for the problem (its images; without one its question) -> the role that it serves already."""
        found = {key: self._image_roles.get(key) for key in problem["image_hashes"]}
        if not found:
            found = {"question": self._question_roles.get(_question_key(problem))}
        return {key: None if place is None else ROLES[place] for key, place in found.items()}

    def add(self, row: Row) -> None:
        """Remember a problem; the first role of an image stays."""
        if row["source"] not in self._names:
            self._names.append(row["source"])
        self._problems.setdefault(row["problem_id"], self._names.index(row["source"]))
        gold = _gold_print(row)
        if gold is not None:
            self._golds.setdefault(row["problem_id"], gold)
        role = ROLES.index(row["role"])
        for key in row["image_hashes"]:
            self._image_roles.setdefault(key, role)
        if not row["image_hashes"]:
            self._question_roles.setdefault(_question_key(row), role)


def first_keys(partitions: Iterable[Partition]) -> list[str]:
    """The first key column of every row of these partitions."""
    return [key for part in partitions for key in part.read([part.table.key[0]])[0].to_pylist()]


def _gold_print(problem: Row) -> int | None:
    """The gold answer as a small number; None without one."""
    right = right_of(problem)
    return None if right is None else zlib.crc32(right.encode()) >> 1


def _question_key(row: Row) -> str:
    return digest(row["question"], row["choices"])


def check_role(problem: Row, seen: KnownRows) -> None:
    """Each image (or text-only question) is in one role only: the later row yields."""
    for key, role in seen.roles_of(problem).items():
        if role is not None and role != problem["role"]:
            raise RowError(f"overlaps-{role}", f"{key} is in the {role} set, which was ingested first")
