"""Recipes: strict, one sentence for each mistake, resolved and saved."""

import pytest
import yaml
from typer.testing import CliRunner

from curate import pipeline
from curate.errors import UserError

FILES = {"kind": "files", "name": "s", "path": "rows.jsonl"}
RECIPE = {
    "name": "small",
    "seed": 3,
    "ingest": {"sources": [{"kind": "synthetic", "name": "bars", "task": "bars_read", "rows": 4}]},
    "rollout": {"engine": {"kind": "simulated", "model": "world"}, "samples": 2},
}


def write(tmp_path, tree) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def change(path: str, value):
    tree = yaml.safe_load(yaml.safe_dump(RECIPE))
    node = tree
    *head, last = path.split(".")
    for key in head:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[last] = value
    return tree


def test_a_recipe_resolves_with_its_defaults(tmp_path):
    recipe = pipeline.load(write(tmp_path, RECIPE))
    resolved = recipe.resolved()
    assert resolved["seed"] == 3
    assert resolved["rollout"]["sampling"]["temperature"] == 1.0
    assert resolved["ingest"]["sources"][0]["limit"] is None
    # Resolved twice is resolved once.
    again = tmp_path / "again"
    again.mkdir()
    assert pipeline.load(write(again, resolved)).resolved() == resolved


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rolout", {}, 'did you mean "rollout"'),
        ("rollout.sample", 2, 'did you mean "samples"'),
        ("rollout.engine.kind", "vlm", "rollout.engine.kind"),
        ("rollout.sampling", {"temprature": 1}, 'did you mean "temperature"'),
        ("ingest.sources.0.rowz", 2, 'did you mean "rows"'),
        ("ingest.sources.0.rows", 0, "greater than or equal to 1"),
        ("rollout.samples", {"train": 2}, "samples has no number for role meta, test"),
        ("seed", "one", '"seed" a whole number'),
        # What another package's sections take is known before any stage runs, too.
        ("select", {"aggregation": "meen-log-odds"}, 'did you mean "mean-log-odds"'),
        ("train", {"model": "m", "aggregation": "meen"}, '"train.aggregation"'),
        ("train", {"model": "m", "loss": "mce"}, 'there is no loss of steps "mce"; did you mean "mse"?'),
        ("train", {"model": "m", "upper": {"loss": "aurok"}}, 'there is no upper loss "aurok"; did you mean "auroc"'),
        ("ingest.sources.0.task", "bars_reed", 'there is no task "bars_reed"; did you mean "bars_read"'),
        ("ingest.sources", [FILES | {"answer_type": "numbr"}], 'no answer type "numbr"; did you mean "number"'),
        ("ingest.sources", [FILES | {"kind": "package", "adapter": "x"}], 'there is no source adapter "x"'),
    ],
)
def test_each_mistake_is_one_sentence_that_names_the_place(tmp_path, path, value, said):
    with pytest.raises(UserError) as error:
        pipeline.load(write(tmp_path, change(path, value)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_override_any_key(tmp_path):
    path = write(tmp_path, RECIPE)
    recipe = pipeline.load(path, ["rollout.sampling.temperature=0.5", "ingest.sources.0.rows=9", "seed=8"])
    assert recipe.section("rollout").sampling.temperature == 0.5
    assert recipe.section("ingest").sources[0].rows == 9
    assert recipe.seed == 8


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rollout", "key.path=value"),
        ("ingest.sources.4.rows=1", "not an index of a list of 1"),
        ("seed.x=1", "plain value"),
        ("rollout.samplez=1", 'did you mean "samples"'),
        ("rollout.samples=[", "is not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, setting, said):
    with pytest.raises(UserError) as error:
        pipeline.load(write(tmp_path, RECIPE), [setting])
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system ['true']"])
def test_yaml_is_read_safely(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        pipeline.load(path)


def test_a_missing_section_and_a_missing_recipe_exit_with_2(tmp_path):
    from curate.cli.app import app

    path = write(tmp_path, RECIPE)
    result = CliRunner().invoke(app, ["label", str(path), "-w", str(tmp_path / "w")])
    assert isinstance(result.exception, UserError)
    assert 'no section "label"' in str(result.exception)
    with pytest.raises(UserError, match="There is no recipe"):
        pipeline.load(tmp_path / "none.yaml")
