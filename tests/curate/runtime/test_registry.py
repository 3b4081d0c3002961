"""Tables of names: what this project has goes first, a package adds its own, and a broken one says which it is."""

import re
import subprocess
import sys

import pytest
from installed_package import installed_package

from curate.errors import UserError
from curate.runtime.registry import Registry

SHAPES = Registry("test.shapes", "shape", {"round": int, "square": "math:sqrt", "gone": "no_such_module:thing"})
PATTERNS = Registry("test.patterns", "pattern", {}, of="re:Pattern")

MODULES = {
    "other.py": "import re\ndef oval(): return 'oval'\nNUMBER = 3\nPATTERN = re.compile('a')\n",
    "broken.py": "raise RuntimeError('half installed')\n",
}
POINTS = {
    "test.shapes": {"oval": "other:oval", "round": "other:oval", "angular": "other:NUMBER", "bent": "broken:x"},
    "test.patterns": {"a": "other:PATTERN", "b": "other:oval"},
}


@pytest.fixture
def other(tmp_path):
    with installed_package(tmp_path / "other", MODULES, POINTS):
        yield


def test_names_are_checked_without_importing_what_they_stand_for():
    # This one could not be imported at all.
    assert SHAPES.checked("gone") == "gone"
    code = "from curate.recipe import source_table, engine_table; from prm import aggregations, loss_table, config\n"
    code += "aggregations.AGGREGATIONS.checked('mean'); loss_table.STEP_LOSSES.checked('mse')\n"
    code += "config.DomainTraining(model='m', upper={'loss': 'auroc', 'meta_rows': 4})\n"
    code += "engine_table.ENGINES.checked('vllm'); source_table.SOURCES.checked('hub')\n"
    code += "import sys; print(sorted({'torch', 'vllm', 'transformers', 'datasets'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_package_brings_is_found_and_what_is_ours_stays_ours(other):
    assert SHAPES.names() == list(SHAPES) == ["round", "square", "gone", "angular", "bent", "oval"]
    assert len(SHAPES) == 6 and "oval" in SHAPES and "triangular" not in SHAPES and ["oval"] not in SHAPES
    assert SHAPES.find("oval")() == "oval"
    assert SHAPES.find("round") is int
    assert SHAPES.find("square")(9) == 3
    assert PATTERNS.find("a") == re.compile("a")


def test_a_package_that_is_gone_brings_nothing(tmp_path):
    with installed_package(tmp_path / "other", MODULES, POINTS):
        assert SHAPES.checked("oval") == "oval"
    with pytest.raises(ValueError, match="there is no shape"):
        SHAPES.checked("oval")


def test_an_unknown_name_is_one_sentence_with_the_nearest(other):
    with pytest.raises(ValueError, match=r'^there is no shape "ovel"; did you mean "oval"'):
        SHAPES.checked("ovel")
    with pytest.raises(UserError, match=r'^There is no shape "sqare"; did you mean "square"'):
        SHAPES.find("sqare")
    with pytest.raises(UserError, match=r'^There is no pattern "z"; known: a, b'):
        PATTERNS.find("z")


@pytest.mark.parametrize(
    ("table", "name", "said"),
    [
        (
            SHAPES,
            "bent",
            'The package other brings the shape "bent", which cannot be loaded from broken:x (RuntimeError',
        ),
        (
            SHAPES,
            "angular",
            'The package other brings the shape "angular", and other:NUMBER is not a class or a function',
        ),
        (PATTERNS, "b", 'The package other brings the pattern "b", and other:oval is not a re.Pattern'),
    ],
)
def test_a_broken_entry_is_one_sentence_that_names_its_package(other, table, name, said):
    # A name is known before anything is imported.
    assert table.checked(name) == name
    with pytest.raises(UserError, match=f"^{re.escape(said)}.*; repair the package, or uninstall it.$"):
        table.find(name)


def test_two_packages_with_one_name_are_told_apart_by_nobody(other, tmp_path):
    with (
        installed_package(tmp_path / "more", {"more.py": "x = int\n"}, {"test.shapes": {"oval": "more:x"}}, "more"),
        pytest.raises(UserError, match='packages more and other both bring the shape "oval"; uninstall one'),
    ):
        SHAPES.find("oval")
