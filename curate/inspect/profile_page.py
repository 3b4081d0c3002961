"""The profile for people: a table for terminals, and one HTML page that needs no network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.images import decode
from curate.inspect.profile import DomainProfile, Profile, Range
from curate.tables.rows import Binary, columns_of
from curate.tables.schema import IMAGES
from curate.tables.store import Store, among

if TYPE_CHECKING:
    from rich.table import Table


@columns_of(IMAGES)
@dataclass(frozen=True, slots=True)
class ImageContent:
    """An image as it was ingested."""

    image_hash: str
    bytes: Binary


MISSING = "–"
# Longest side of an image on the page.
_SIDE = 320


def spread(value: Range | None) -> str:
    """Such as "3, 12 to 40": the middle, and the ends."""
    if value is None:
        return MISSING
    return f"{value.low:,}" if value.low == value.high else f"{value.median:,.0f}, {value.low:,} to {value.high:,}"


def counts(found: dict[str, int]) -> str:
    """Such as "choice 12, number 3"."""
    return ", ".join(f"{name} {count:,}" for name, count in found.items()) or MISSING


def size(domain: DomainProfile) -> str:
    """Middle width and height."""
    if domain.image_width is None or domain.image_height is None:
        return MISSING
    return f"{domain.image_width.median:,.0f} x {domain.image_height.median:,.0f}"


COLUMNS = (
    ("domain", "left", lambda d: d.domain),
    ("role", "left", lambda d: d.role),
    ("problems", "right", lambda d: f"{d.problems:,}"),
    ("answers", "left", lambda d: counts(d.answer_types)),
    ("choices", "right", lambda d: spread(d.choices)),
    ("question, characters", "right", lambda d: spread(d.question_length)),
    ("images", "right", lambda d: f"{d.images:,}"),
    ("size", "right", size),
    ("rejects", "left", lambda d: counts(d.rejects)),
    ("duplicates", "right", lambda d: f"{d.duplicates:,}"),
    ("dropped", "left", lambda d: counts(d.dropped)),
    ("licence", "left", lambda d: ", ".join(d.licences) or MISSING),
)

# More than a terminal has room for.
_PAGE_ONLY = ("choices", "question, characters", "size")


def table(profile: Profile) -> Table:
    """For a terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=f"What came in: {profile.workspace}", title_justify="left")
    shown = [column for column in COLUMNS if column[0] not in _PAGE_ONLY]
    for name, side, _ in shown:
        made.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for domain in profile.domains:
        made.add_row(*(Text(plain(cell(domain))) for _, _, cell in shown))
    return made


def plain(text: str) -> str:
    """On one line, without characters that could steer a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))


def page(profile: Profile, workspace: Store) -> str:
    """The page; every text is escaped by the template, and the page's own policy forbids it to load anything."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("curate.inspect"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wanted = sorted({key for domain in profile.domains for sample in domain.samples for key in sample.images})
    return environment.get_template("profile.html.j2").render(
        profile=profile, columns=COLUMNS, images=_images(workspace, wanted), counts=counts, missing=MISSING
    )


def _images(workspace: Store, hashes: list[str]) -> dict[str, str]:
    """Data URLs by hash, no larger than they are shown."""
    parts = (among("image_hash", hashes[start : start + 200]) for start in range(0, len(hashes), 200))
    urls = {}
    for row in [row for where in parts for row in workspace.rows(ImageContent, where)]:
        seen = decode(row.bytes)
        seen.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        seen.save(buffer, "PNG")
        urls[row.image_hash] = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return urls
