"""Where the images of a table lie: which column leads to which of the files that are there. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from curate.discovery.findings import Guess
from curate.discovery.names import ID, IMAGE, ranked
from curate.discovery.table import SampledColumn, image_kind

# At least this share of a column's values must lead to files.
_ENOUGH = 0.5


@dataclass(frozen=True)
class Place:
    """A folder or zip archive with the paths of the image files in it; `root` is how a recipe names it."""

    root: str
    files: Sequence[str]
    archive: bool = False

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Paths by the name of the file."""
        found: dict[str, list[str]] = {}
        for path in self.files:
            found.setdefault(PurePosixPath(path).name, []).append(path)
        return found

    @cached_property
    def by_word(self) -> dict[str, list[str]]:
        """Paths with {} in the place of a word, by that word: a file's name without its ending, or its folder's."""
        found: dict[str, list[str]] = {}
        for file in self.files:
            path = PurePosixPath(file)
            found.setdefault(path.stem, []).append(str(path.with_name("{}" + path.suffix)))
            if path.parent.name:
                found.setdefault(path.parent.name, []).append(str(path.parent.with_name("{}") / path.name))
        return found

    def under(self, folder: str) -> str:
        """How a recipe names a folder in this place; an archive is named whole."""
        return self.root if self.archive or folder in ("", ".") else str(PurePosixPath(self.root) / folder)


def guess(columns: Sequence[SampledColumn], places: Sequence[Place]) -> list[Guess]:
    """`columns.image`, and `root` where the paths need one; nothing where no column has or names an image."""
    holding = [column for column in columns if column.share(lambda v: image_kind(v) is not None) >= _ENOUGH]
    series = _series(holding)
    if series:
        names = [column.name for column in series]
        return [Guess("columns.image", names, f"{len(names)} columns of one name, numbered, hold images"),
                *_rooted(series[0], places)]  # fmt: skip
    best = _best(holding)
    if best is None:
        return _named(columns, places)
    column, kind = best
    others = [each.name for each in holding if each.name != column.name and not each.name.startswith(column.name + ".")]
    what = "the images themselves" if kind == "bytes" else "paths of images"
    found = Guess("columns.image", column.name, f"{_of(column)} hold {what}", not others or kind == "bytes", others)
    return [found, *(_rooted(column, places) if kind == "path" else [])]


def _of(column: SampledColumn) -> str:
    return f"{len(column.present)} of {len(column.values)} rows"


def _series(columns: Sequence[SampledColumn]) -> list[SampledColumn]:
    """image_1, image_2, ...: the longest run of columns whose names differ in their last number only."""
    groups: dict[str, list[SampledColumn]] = {}
    for column in columns:
        stem = column.name.rstrip("0123456789")
        if stem != column.name:
            groups.setdefault(stem, []).append(column)
    largest = max(groups.values(), key=len, default=[])
    return (
        sorted(largest, key=lambda each: int(each.name[len(each.name.rstrip("0123456789")) :]))
        if len(largest) > 1
        else []
    )


def _best(holding: Sequence[SampledColumn]) -> tuple[SampledColumn, str] | None:
    """Images in the rows before paths, common names before others, whole columns before fields of theirs."""
    kinds = [
        (column, Counter(filter(None, map(image_kind, column.present))).most_common(1)[0][0]) for column in holding
    ]
    for kind in ("bytes", "path"):
        of_kind = [column for column, each in kinds if each == kind]
        known = ranked(of_kind, IMAGE, lambda column: True)
        if known or of_kind:
            return (known or sorted(of_kind, key=lambda each: each.name.count(".")))[0], kind
    return None


def _rooted(column: SampledColumn, places: Sequence[Place]) -> list[Guess]:
    """`root`, so that the column's paths lead to files; a null one where no files of these names are there."""
    paths = [str(path) for value in column.present for path in (value if isinstance(value, list) else [value])]
    roots: Counter[str] = Counter()
    for path in paths:
        plain = str(PurePosixPath(path))
        roots.update({place.under(before) for place in places for before in _before(plain, place)})
    if not roots:
        why = f"no file of a name such as {paths[0]} was found; the folder or zip archive with the images is wanted"
        return [Guess("root", None, why, sure=False)]
    (root, count), *rest = roots.most_common()
    why = f"{count} of {len(paths)} paths lead to a file there"
    return [Guess("root", root, why, count >= 0.9 * len(paths), [other for other, _ in rest])]


def _before(path: str, place: Place) -> set[str]:
    """The folders of a place below which the path leads to a file; of an archive also its single top folder."""
    files = place.by_name.get(PurePosixPath(path).name, ())
    found = {file[: -len(path)].rstrip("/") for file in files if file == path or file.endswith("/" + path)}
    if not place.archive:
        return found
    tops = {file.partition("/")[0] for file in place.files}
    return {folder for folder in found if folder == "" or tops == {folder}}


def _named(columns: Sequence[SampledColumn], places: Sequence[Place]) -> list[Guess]:
    """Files or folders named by a column, `tables/{id}.png`; one of an odd name must lead to a file in all rows."""
    best: tuple[int, SampledColumn, str, Place] | None = None
    usual = {column.name for column in ranked(columns, (*ID, *IMAGE), lambda column: True)}
    for column in columns:
        if not column.is_text or column.distinct < 2:
            continue
        for place in places:
            hits = Counter(pattern for text in column.texts for pattern in place.by_word.get(text, ()))
            for pattern, count in hits.most_common(1):
                enough = (_ENOUGH if column.name in usual else 1) * len(column.texts)
                if count >= enough and (best is None or count > best[0]):
                    best = count, column, pattern, place
    if best is None:
        return []
    count, column, pattern, place = best
    why = f"{count} of {len(column.texts)} values of {column.name} are the name of an image file"
    return [Guess("columns.image", pattern.replace("{}", f"{{{column.name}}}"), why), Guess("root", place.root, why)]
