"""The documents say what the code does."""

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import recipe_keys
import yaml
from pydantic import AfterValidator, Field
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app as curate
from curate.recipe.engine_table import ENGINES
from curate.recipe.parsing import Config, fields
from curate.recipe.variants import find
from curate.sources.synthetic import TASKS
from curate.text import prompts
from curate.text.forms import FORMS
from prm.aggregations import AGGREGATIONS
from prm.cli.app import app as prm

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docs)


@pytest.mark.parametrize("name", docs.GENERATED)
def test_generated_documents_are_fresh(name):
    assert (ROOT / "docs" / name).read_text() == docs.GENERATED[name](), "run: .venv/bin/python scripts/docs.py"


SECTIONS = docs.sections()
BESIDE = {heading: kind for heading, _, kind in docs.BESIDE}


@pytest.mark.parametrize("section", [*SECTIONS, *BESIDE])
def test_every_key_of_a_recipe_says_what_it_does(section):
    for key in recipe_keys.keys((SECTIONS | BESIDE)[section]):
        assert key.text, f"{section}: {key.name} has no docstring"
        assert key.value, f"{section}: scripts/recipe_keys.py has no words for the type of {key.name}"


@pytest.mark.parametrize(
    ("section", "key", "names"),
    [
        ("ingest", "form", FORMS),
        ("ingest", "task", TASKS),
        ("rollout", "engine.kind", ENGINES),
        ("rollout", "prompt", prompts.TEMPLATES),
        ("judge", "prompt", prompts.JUDGE_TEMPLATES),
        ("train", "aggregation", AGGREGATIONS),
        ("select", "aggregation", AGGREGATIONS),
    ],
)
def test_a_key_names_all_that_it_may_be(section, key, names):
    told = {each.name: each.value + each.text for each in recipe_keys.keys(SECTIONS[section])}
    assert set(names) <= set(re.findall(r"`([^`]+)`", told[key]))


class Colours:
    """Checks names as a table does that installed packages can add to."""

    own = ("red", "blue")

    def checked(self, name: str) -> str:
        return name


class Animal(Config):
    """Says which animal it is."""

    name: str = "Rex"
    """Name of the animal."""


class Dog(Animal):
    """Barks."""

    kind: Literal["dog"] = "dog"
    """`dog` barks."""
    volume: int = Field(default=3, ge=1, le=9)
    """How loud it barks."""


class Cat(Animal):
    """Purrs."""

    kind: Literal["cat"]
    """`cat` purrs."""
    lives: float | None = None
    """How often it may fall."""
    colour: Annotated[str, AfterValidator(Colours().checked)] = "red"
    """Colour of its fur."""


class Told:
    """Marks a union as decided by a key, with the value that counts without it."""

    def __init__(self, key, default):
        self.key, self.default = key, default


class Car(Config):
    """Drives."""

    way: Literal["road"] = "road"
    """On wheels."""
    fuel: Literal["petrol"]
    """Burns."""
    litres: float
    """Size of the tank."""


class Tram(Config):
    """Rolls."""

    way: Literal["road"] = "road"
    """On wheels."""
    fuel: Literal["current"]
    """Hums."""


class Boat(Config):
    """Floats."""

    way: Literal["water"]
    """On water."""


ROAD = Annotated[Car | Tram, Told("fuel", "petrol")]
VEHICLE = Annotated[ROAD | Boat, Told("way", "road")]


class Trip(Config):
    """Goes somewhere."""

    by: VEHICLE
    """What it goes by."""


def test_a_variant_may_be_a_union_by_a_key_of_its_own():
    told = rows_by_heading("".join(recipe_keys.section("trip", "", Trip)))["trip"]
    assert [(row[0], row[1], row[2], row[3]) for row in told] == [
        ("`by`", "mapping (next rows)", "required", "What it goes by."),
        ("`by.way`", "`road` or `water`", "`road`", "`road`: On wheels. `water`: On water."),
        (
            "`by.fuel`",
            "`petrol` or `current`",
            "`petrol`",
            "Only with `by.way: road`. `petrol`: Burns. `current`: Hums.",
        ),
        ("`by.litres`", "number", "required", "Only with `by.fuel: petrol`. Size of the tank."),
    ]
    told = rows_by_heading("".join(recipe_keys.section("vehicle", "", VEHICLE)))
    assert {heading: [row[0] for row in rows] for heading, rows in told.items()} == {
        "vehicle": ["`way`"],
        "With `fuel: petrol`": ["`fuel`", "`litres`"],
        "With `fuel: current`": ["`fuel`"],
    }


class Owner(Config):
    """Has animals."""

    pet: Annotated[Dog | Cat, Field(discriminator="kind")] = Dog(volume=5)
    """The animal in the house."""
    others: tuple[Annotated[Dog | Cat, Field(discriminator="kind")], ...] = ()
    """Animals outside."""


def rows_by_heading(text):
    found, heading = {}, ""
    for line in text.splitlines():
        heading = line.strip("# ") if line.startswith("#") else heading
        if line.startswith("| `"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_variants_of_a_section_have_common_keys_once_and_then_their_own():
    told = rows_by_heading("".join(recipe_keys.section("zoo", "", Annotated[Dog | Cat, Field(discriminator="kind")])))
    assert told == {
        "zoo": [
            ["`kind`", "`dog` or `cat`", "required", "`dog` barks. `cat` purrs."],
            ["`name`", "text", "`Rex`", "Name of the animal."],
        ],
        "With `kind: dog`": [["`volume`", "whole number (from 1 to 9)", "`3`", "How loud it barks."]],
        "With `kind: cat`": [
            ["`lives`", "number or `null`", "`null`", "How often it may fall."],
            ["`colour`", "`red`, `blue` or a name that an installed package adds", "`red`", "Colour of its fur."],
        ],
    }


def test_variants_below_a_key_say_when_they_count_and_take_the_defaults_of_what_is_there():
    told = rows_by_heading("".join(recipe_keys.section("house", "", Owner)))
    assert told["house"] == [
        ["`pet`", "mapping (next rows)", "`{}`", "The animal in the house."],
        ["`pet.kind`", "`dog` or `cat`", "`dog`", "`dog` barks. `cat` purrs."],
        ["`pet.name`", "text", "`Rex`", "Name of the animal."],
        ["`pet.volume`", "whole number (from 1 to 9)", "`5`", "Only with `pet.kind: dog`. How loud it barks."],
        ["`pet.lives`", "number or `null`", "`null`", "Only with `pet.kind: cat`. How often it may fall."],
        [
            "`pet.colour`",
            "`red`, `blue` or a name that an installed package adds",
            "`red`",
            "Only with `pet.kind: cat`. Colour of its fur.",
        ],
        ["`others`", "list of mappings (see below)", "`[]`", "Animals outside."],
    ]
    assert [row[0] for row in told["Items of `others`"]] == ["`kind`", "`name`"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_is_valid(path):
    recipe = pipeline.load(path)
    assert recipe.sections
    assert yaml.safe_load(yaml.safe_dump(recipe.resolved())) == recipe.resolved()


def test_the_readme_names_every_command_and_no_other():
    text = (ROOT / "README.md").read_text()
    from curate.cli import exports, imports, init, look, stages

    known = {*init.COMMANDS, *stages.COMMANDS, *imports.COMMANDS, *exports.COMMANDS, *look.COMMANDS, "recipes"}
    for command in known:
        assert f"curate {command}" in text
    for command in ("train", "score", "select", "eval", "report", "export", "serve"):
        assert f"prm {command}" in text
    for word in re.findall(r"`curate ([a-z-]+)", text):
        assert word in known


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


GUIDES = [
    *("tutorial", "your-data", "labels", "training", "evaluation", "handing-on"),
    *("reading-the-report", "meta-set", "costs", "limits", "imports"),
]


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def spans(name: str) -> list[str]:
    """What a guide writes as code: inline, or a line of a shell block."""
    text = (ROOT / "docs" / f"{name}.md").read_text()
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*shell.splitlines(), *(" ".join(one.split()) for one in inline)]


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_names_commands_and_options_that_there_are(name):
    for span in spans(name):
        for program, command, rest in re.findall(r"\b(curate|prm) ([a-z-]+)(.*)", span):
            shown = CliRunner().invoke({"curate": curate, "prm": prm}[program], [command, "--help"])
            assert shown.exit_code == 0, span
            for option in re.findall(r"(?<!\S)--?[a-z-]+", rest):
                assert re.search(rf"(?<!\S){option}\b", shown.output), f"{option} in {span}"


SHORT = {"upper": ["train", "upper"], "engine": ["rollout", "engine"]}
FILES = ("json", "jsonl", "md", "html", "csv", "yaml")


def paths(tree: object) -> list[list[str]]:
    """Every key of nested mappings, with those above it."""
    if not isinstance(tree, dict):
        return [[]]
    return [[name, *path] for name, below in tree.items() for path in paths(below)] or [[]]


def keys(span: str) -> list[list[str]]:
    """Keys of a recipe, `train.steps` or `train: {steps: 5}`; none for a span that is something else."""
    try:
        tree = yaml.safe_load(span)
    except yaml.YAMLError:
        return []
    named = paths(tree) if isinstance(tree, dict) else [span.split(".")]
    # What an engine takes as `args` is its own affair.
    named = [path[: path.index("args") + 1] if "args" in path else path for path in named]
    named = [[*SHORT.get(path[0], path[:1]), *path[1:]] for path in named if path]
    return [path for path in named if all(re.fullmatch(r"[a-z_]+", part) for part in path) and path[-1] not in FILES]


# These two are about commands, whose options are no keys.
WITHOUT_KEYS = ("evaluation", "handing-on")


@pytest.mark.parametrize("name", [name for name in GUIDES if name not in WITHOUT_KEYS])
def test_a_guide_names_keys_that_there_are(name):
    known = docs.sections()
    named = [path for span in spans(name) for path in keys(span) if len(path) > 1 and path[0] in known]
    assert named
    for first, *path in named:
        for place in range(1, len(path) + 1):
            assert path[place - 1] in fields(find(known[first], path[:place]).holders), f"{first}.{'.'.join(path)}"


def test_the_glossary_names_what_is_there():
    from curate.tables.schema import TABLES

    sources = [path.read_text() for folder in ("curate", "prm") for path in (ROOT / folder).rglob("*.py")]
    columns = {name for table in TABLES.values() for name in table.schema.names}
    defined = {name for text in sources for name in re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE)}
    # Type aliases, parts of identifiers of the report, modules.
    defined |= {
        name for text in sources for name in re.findall(r"^(\w+)(?:: TypeAlias)? = Callable", text, re.MULTILINE)
    }
    defined |= {path.stem for folder in ("curate", "prm") for path in (ROOT / folder).rglob("*.py")}
    rows = [
        line.split("|") for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| ")
    ]
    words = [row[1].strip() for row in rows[1:]]
    assert len(words) == len(set(words)) > 20
    for row in rows[1:]:
        for name in re.findall(r"`([^`]+)`", row[3]):
            assert name in columns | defined, f"{row[1].strip()}: {name}"
