"""Hooks of the documentation site: README.md is its first page, CONTRIBUTING.md is one, and links into the code become
plain paths.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the folder above, whose links and images are relative to it."""
    for page, name in PAGES.items():
        text = (ROOT / name).read_text().replace("](docs/", "](").replace('"docs/', '"')
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links that leave the documentation into the names of files; a folder of it leads to its first page."""
    here = posixpath.dirname(page.file.src_uri)

    def shown(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match[3]))
        if match[1] or files.get_file_from_path(target) is not None:
            return match[0]
        inside = sorted(file.src_uri for file in files if file.src_uri.startswith(f"{target}/"))
        if inside:
            return f"[{match[2]}]({posixpath.relpath(inside[0], here or '.')})"
        # What the pages of the folder above name below docs/ was found already.
        path = posixpath.normpath(posixpath.join("" if page.file.src_uri in PAGES else "docs", target))
        if path in PAGES.values():
            page_of = {name: page for page, name in PAGES.items()}
            return f"[{match[2]}]({posixpath.relpath(page_of[path], here or '.')}{match[4] or ''})"
        if not (ROOT / path).exists():
            return match[0]
        return f"{match[2]} (`{path}`)" if match[2].strip("`") != path else f"`{path}`"

    return _LINK.sub(shown, markdown)
