"""The files of a report, and of the difference between two: JSON, Markdown, CSV and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from curate.tables.store import write_atomic
from prm.render import browse, difference, markdown, page, table
from prm.render.browse import Browse
from prm.reporting.compare import Comparison
from prm.reporting.model import Report


def write_report(report: Report, folder: Path, theme: str = "auto", chains: Browse | None = None) -> dict[str, Path]:
    """Write report.json, .md, .csv and .html into `folder`; their paths by "json", "markdown", "csv" and "html".

    With `chains` also the files of the page's browser, path "chains".

    `theme` is the look that the page opens with: "auto" (the reader's system), "light" or "dark".
    """
    folder.mkdir(parents=True, exist_ok=True)
    forms = {
        "json": ("report.json", json.dumps(report.to_json(), ensure_ascii=False, indent=1, allow_nan=False)),
        "markdown": ("report.md", markdown.render(report)),
        "csv": ("report.csv", table.render(report)),
        "html": ("report.html", page.render(report, theme, chains.setup() if chains else None)),
    }
    # The page comes after what it reads; without chains those of an earlier page go.
    browse.clear(folder)
    paths = {"chains": browse.write(chains, folder)} if chains else {}
    return paths | _write(forms, folder)


def write_difference(comparison: Comparison, folder: Path, theme: str = "auto") -> dict[str, Path]:
    """Write difference.json, .md, .csv and .html into `folder`; their paths by "json", "markdown", "csv", "html"."""
    folder.mkdir(parents=True, exist_ok=True)
    forms = {
        "json": ("difference.json", json.dumps(comparison.to_json(), ensure_ascii=False, indent=1, allow_nan=False)),
        "markdown": ("difference.md", difference.markdown(comparison)),
        "csv": ("difference.csv", table.render_difference(comparison)),
        "html": ("difference.html", page.render_difference(comparison, theme)),
    }
    return _write(forms, folder)


def _write(forms: Mapping[str, tuple[str, str]], folder: Path) -> dict[str, Path]:
    """Write each form, (file name, text), into `folder`; their paths."""
    paths = {}
    for form, (name, text) in forms.items():
        paths[form] = folder / name
        # Lone surrogates cannot be UTF-8; the reader sees a replacement for them.
        write_atomic(paths[form], text.encode("utf-8", "replace"))
    return paths
