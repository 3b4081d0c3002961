"""The documents say what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from curate import chain

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docs)


@pytest.mark.parametrize("name", docs.GENERATED)
def test_generated_documents_are_fresh(name):
    assert (ROOT / "docs" / name).read_text() == docs.GENERATED[name](), "run: .venv/bin/python scripts/docs.py"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_is_valid(path):
    recipe = chain.load(path)
    assert recipe.sections
    assert yaml.safe_load(yaml.safe_dump(recipe.resolved())) == recipe.resolved()


def test_the_readme_names_every_command_and_no_other():
    text = (ROOT / "README.md").read_text()
    from curate.cli import exports, imports, look, stages

    known = {*stages.COMMANDS, *imports.COMMANDS, *exports.COMMANDS, *look.COMMANDS, "recipes"}
    for command in known:
        assert f"curate {command}" in text
    for command in ("train", "score", "select", "eval", "report", "export", "serve"):
        assert f"prm {command}" in text
    for word in re.findall(r"`curate ([a-z-]+)", text):
        assert word in known


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
