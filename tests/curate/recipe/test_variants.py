"""Unions of sections by a key: what belongs to another member is refused in one sentence, and what is stored stays."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import pytest
import yaml
from installed_package import installed_package
from pydantic import BaseModel

from curate import pipeline
from curate.errors import UserError
from curate.recipe.parsing import Config, Variant, validate
from curate.recipe.variants import OneOf, below, members, models, unions, values
from prm.bench.config import AnyVerdictConfig

SECTIONS = {name: pipeline.STAGES.find(name).config for name in pipeline.STAGES} | {"eval": AnyVerdictConfig}
# Made by the commit before sections were unions: what was given, and what a resolved recipe stored of it.
STORED = json.loads((Path(__file__).parent / "stored_settings.json").read_text())
PLAIN = {str: "a", int: 1, float: 1.0, Path: "a", dict: {"a": 1.0}}


def every_union(kind: Any) -> Iterator[tuple[OneOf, Any]]:
    """The unions in a section, at any depth."""
    for one_of, union in unions(kind):
        yield one_of, union
        for member in members(union):
            yield from every_union(member)
    for model in models(kind):
        for name in model.model_fields:
            for found in below([model], name):
                yield from every_union(found)


def needed(annotation: Any) -> Any:
    """A value of this type."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return smallest(annotation)
    return PLAIN[get_origin(annotation) or annotation]


# Keys that take names of a table alone.
NAMES = {"task": "bars_read", "adapter": "canned"}


def smallest(model: type[BaseModel]) -> dict[str, Any]:
    """A tree of this section with what it must have."""
    required = {name: field for name, field in model.model_fields.items() if field.is_required()}
    return {name: NAMES.get(name) or needed(field.annotation) for name, field in required.items()}


@pytest.fixture(autouse=True, scope="module")
def an_adapter(tmp_path_factory):
    """A package that brings an adapter."""
    points = {"curate.sources": {"canned": "canned_source:Canned"}}
    with installed_package(tmp_path_factory.mktemp("site"), {"canned_source.py": "class Canned: ...\n"}, points):
        yield


UNIONS = {union: (section, one_of) for section, kind in SECTIONS.items() for one_of, union in every_union(kind)}
CASES = [
    pytest.param(section, union, one_of, model, key, id=f"{section}-{model.__name__}-{key}")
    for union, (section, one_of) in UNIONS.items()
    for member in members(union)
    for model in models(member)[:1]
    for key in sorted({name for each in members(union) for one in models(each) for name in one.model_fields})
    if not any(key in one.model_fields for one in models(member))
]


@pytest.mark.parametrize(("section", "union", "one_of", "model", "key"), CASES)
def test_a_key_of_another_member_is_refused_by_a_sentence_that_says_whose_it_is(section, union, one_of, model, key):
    chosen = values(model, one_of.key)[0]
    tree = smallest(model) | {one_of.key: chosen}
    assert isinstance(validate(union, tree, section), model)
    with pytest.raises(UserError) as error:
        validate(union, tree | {key: "x"}, section)
    said = str(error.value)
    assert said.startswith(f'"{section}.{key}" in the recipe has no effect with {one_of.tag(chosen)}: it belongs to ')
    assert "\n" not in said
    owners = [each for each in members(union) if any(key in one.model_fields for one in models(each))]
    told = said.partition("it belongs to ")[2].removesuffix("; leave it out.")
    for owner in owners:
        for value in values(owner, one_of.key):
            assert one_of.tag(value).removeprefix(f"{one_of.key} ") in told


def test_there_are_such_unions():
    assert {section for section, _ in UNIONS.values()} >= {"ingest", "decontaminate", "label", "train", "eval"}
    assert len(CASES) > 60


@pytest.mark.parametrize(
    ("section", "tree", "said"),
    [
        ("label", {"mode": "exat"}, '"label.mode" in the recipe: there is no mode "exat"; did you mean "exact"?'),
        ("label", {"mode": None}, '"label.mode" in the recipe: there is no mode "null"; known: exact, hard'),
        ("label", {"mode": ["exact"]}, "\"label.mode\" in the recipe: there is no mode \"['exact']\""),
        ("label", {"mode": "exact", "compleshions": 4}, 'Unknown key "label.compleshions" in the recipe; did you mean'),
        ("label", {"mode": "exact", "completions": 0}, '"label.completions" in the recipe: Input should be greater'),
        ("label", 5, '"label" in the recipe: Input should be a mapping of keys.'),
        ("ingest", {"sources": [{"name": "a"}]}, '"ingest.sources.0.kind" is missing in the recipe; known: dreamprm'),
        ("decontaminate", {"other_images": "maybe"}, '"decontaminate.other_images" in the recipe: there is no '),
        ("train", {"model": "m", "mode": "domian"}, 'there is no mode "domian"; did you mean "domain"?'),
        ("train", {"model": "m", "upper": {"rule": "mirror", "betas": [0.5, 0.9]}},
         '"train.upper.betas" in the recipe has no effect with rule mirror: it belongs to rule adam; leave it out.'),
        ("train", {"model": "m", "mode": "s1", "subset": {"clusters": 5}},
         '"train.subset.clusters" in the recipe has no effect with mode s1: it belongs to mode car; leave it out.'),
        ("train", {"model": "m", "mode": "s1", "subset": {"clustres": 5}}, 'Unknown key "train.subset.clustres"'),
    ],
)  # fmt: skip
def test_other_mistakes_name_the_place_without_the_member(section, tree, said):
    with pytest.raises(UserError) as error:
        validate(SECTIONS[section], tree, section)
    assert str(error.value).startswith(said) or said in str(error.value)
    assert "\n" not in str(error.value)


def resolved(tmp_path: Path, section: str, given: Any) -> dict[str, Any]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "x", section: given}))
    return pipeline.load(path).resolved()[section]


@pytest.mark.parametrize("each", STORED, ids=lambda each: f"{each['section']}-{each['given']}")
def test_settings_are_stored_as_they_were_before_there_were_unions(tmp_path, each):
    section, given, stored = each["section"], each["given"], each["stored"]
    assert resolved(tmp_path, section, given) == stored
    # So that the recipe of a run that was saved then can be run again.
    assert resolved(tmp_path, section, stored) == stored


def test_the_key_can_be_set_over_a_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "label": {"max_completions": 4}}))
    assert pipeline.load(path, ["label.mode=exact", "label.max_completions=null"]).section("label").max_per_step == 8
    with pytest.raises(UserError, match=r'max_completions" in the recipe has no effect with mode exact: it belongs to'):
        pipeline.load(path, ["label.mode=exact"])


class Roundness(Variant):
    shape: Literal["round"] = "round"
    radius: int = 1


class Edges(Variant):
    stored: ClassVar = {"radius": 1}
    silent: ClassVar = {"holes": {}}

    shape: Literal["square", "cube"]
    edge: int = 1


class Shapes(Config):
    one: Annotated[Roundness | Edges, OneOf("shape", "round")] = Roundness()
    several: tuple[Annotated[Roundness | Edges, OneOf("shape")], ...] = ()


def test_what_asks_for_nothing_is_passed_over_and_what_was_stored_stays():
    shapes = validate(Shapes, {"one": {"shape": "cube", "radius": 1, "holes": {}}}, "shapes")
    assert shapes.one == Edges(shape="cube")
    assert shapes.model_dump()["one"] == {"shape": "cube", "edge": 1, "radius": 1}
    for given in ({"radius": 2}, {"radius": True}, {"holes": {"a": 1}}):
        with pytest.raises(UserError, match=r"shapes\.one"):
            validate(Shapes, {"one": {"shape": "cube"} | given}, "shapes")


def test_unions_in_lists_name_the_item():
    with pytest.raises(UserError) as error:
        validate(Shapes, {"several": [{"shape": "round"}, {"shape": "cube", "radius": 3}]}, "shapes")
    assert str(error.value) == (
        '"shapes.several.1.radius" in the recipe has no effect with shape cube: it belongs to shape round; '
        "leave it out."
    )
