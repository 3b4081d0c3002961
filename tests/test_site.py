"""The documentation builds into pages, strictly, and is not built where a link leads nowhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", folder / "mkdocs.yml", "--site-dir", site]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture
def clone(tmp_path):
    """What the site is made of, and the files that its pages name."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("README.md", "CONTRIBUTING.md", "mkdocs.yml"):
        shutil.copy(ROOT / name, folder)
    for name in ("curate", "prm", "data", "recipes", "tests", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_every_page_is_built_and_none_asks_the_network(clone, tmp_path):
    done = build(clone, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(clone / "docs").with_suffix(".html") for path in (clone / "docs").rglob("*.md")}
    for page in {*pages, Path("index.html"), Path("contributing.html")}:
        text = (tmp_path / "site" / page).read_text()
        assert '<script src="http' not in text and '<link rel="stylesheet" href="http' not in text


def test_a_link_that_leads_nowhere_fails(clone, tmp_path):
    with (clone / "docs" / "labels.md").open("a") as file:
        file.write("\n[there is nothing](nowhere.md)\n")
    done = build(clone, tmp_path / "site")
    assert done.returncode == 1 and "nowhere.md" in done.stderr
