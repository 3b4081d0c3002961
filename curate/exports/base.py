"""What a format of an export is: rows in, one at a time, files out, and what its card says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from curate.errors import RowError
from curate.images import kind_of
from curate.tables.rows import ProblemRow, columns_of
from curate.tables.schema import ROLLOUTS, STEP_LABELS

# A record as another tool's format has it.
ExportRecord = Mapping[str, Any]
# Usual endings of what Pillow calls a format; of the others the format's own name.
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


@dataclass(frozen=True)
class ExportImage:
    """An image by its content hash, with its original bytes."""

    image_hash: str
    data: bytes = field(repr=False)

    @property
    def ending(self) -> str:
        """How its file's name ends, without the dot, by what the bytes are."""
        kind = kind_of(self.data) or "bin"
        return _ENDINGS.get(kind, kind.lower())

    @property
    def name(self) -> str:
        """The name of the image's file."""
        return f"{self.image_hash}.{self.ending}"


@columns_of(ROLLOUTS)
@dataclass(frozen=True, slots=True)
class ExportedRollout:
    """A rollout, as far as a format has a place for it."""

    rollout_id: str
    problem_id: str
    domain: str
    role: str
    sample_index: int
    steps: Sequence[str]
    answer: str | None
    outcome: bool | None
    outcome_rule: str
    finish: str | None
    policy: str


@columns_of(STEP_LABELS)
@dataclass(frozen=True, slots=True)
class ExportedLabel:
    """A step's label, as far as a format has a place for it."""

    rollout_id: str
    step_index: int
    mode: str
    k: int | None
    m: int | None
    value: float | None
    standard_error: float | None
    weight: float


@dataclass(frozen=True)
class Item:
    """A rollout with its problem, its step labels in the order of its steps (null where a step has no row), and its
    problem's images.
    """

    rollout: ExportedRollout
    problem: ProblemRow
    labels: Sequence[ExportedLabel | None]
    images: Sequence[ExportImage] = ()

    @property
    def steps(self) -> Sequence[str]:
        """Texts of the steps; joined they are the whole chain."""
        return self.rollout.steps

    @property
    def values(self) -> list[float | None]:
        """Labels of the steps in [0, 1]; null where a step has none, or one that is undefined."""
        return [None if label is None else label.value for label in self.labels]


@dataclass(frozen=True)
class Options:
    """What a format may be told; null stands for its own default."""

    threshold: float | None = None
    """A label above it makes a step right."""
    system: str | None = None
    """The system turn of a conversation."""


@dataclass(frozen=True)
class CardLayout:
    """What a card says about an export: its fields with their meaning, how to load it, and what to know besides.

    `data_files` are patterns by split and `features` the YAML of `dataset_info`, both for `load_dataset(folder)`; empty
    where the export is not made for it.
    """

    fields: Mapping[str, str]
    loading: str
    notes: Sequence[str] = ()
    data_files: Mapping[str, str] = field(default_factory=dict)
    features: Sequence[Mapping[str, Any]] = ()


class Format(Protocol):
    """Writes an export into a folder that is its own."""

    def add(self, item: Item) -> int:
        """Write a rollout; how many of its steps were written. RowError with the reason where it is left out.

        Steps that are not written have no label or stand behind one that has none.
        """
        ...

    def close(self) -> CardLayout:
        """Write what is left; nothing is added after it."""
        ...


class Maker(Protocol):
    """A format's class."""

    takes: frozenset[str]
    """Names of the options that it has a use for."""

    def __call__(self, folder: Path, options: Options) -> Format: ...


def judged(item: Item, threshold: float) -> list[tuple[str, bool]]:
    """(step, whether it is right) up to the first step without a label: what comes behind it would stand on nothing.

    A label is right above the threshold. Steps come without the white space around them. RowError where nothing is
    left.
    """
    check_labelled(item)
    found = list[tuple[str, bool]]()
    for step, value in zip(item.steps, item.values, strict=True):
        if value is None:
            break
        found.append((step.strip(), value > threshold))
    if not found:
        raise RowError("undefined", "its first step has too few graded completions for a label")
    return found


def check_labelled(item: Item) -> None:
    """RowError when there is nothing that a label could be of, or no label at all."""
    if not item.steps:
        raise RowError("no-steps", "the rollout has no text")
    if not any(item.labels):
        raise RowError("not-labelled", "it has no step labels")
