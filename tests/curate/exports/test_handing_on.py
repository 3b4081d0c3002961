"""Exports: what other tools load is what the tables hold, value by value; accounts, cards, folders and pushes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import datasets
import export_testbed as bed
import huggingface_hub
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from curate.cli.app import app
from curate.errors import UserError
from curate.exports import columns, facts, licences, records, target
from curate.exports import run as exports
from curate.exports.base import Options
from curate.exports.formats import parquet, webdataset
from curate.exports.formats.table import FORMATS
from curate.exports.push import hub as real_hub
from curate.exports.push import push
from curate.exports.run import ExportRequest
from curate.models.torch_companions import mend
from curate.runtime import hubs
from curate.runtime.reporter import Silent
from curate.seeds import content_hash, shard_of
from curate.tables.store import DEFAULT_SHARDS, Store
from curate.text.prompts import problem_text

# What every format takes, and the reasons for what none does.
THERE = [number for number, (name, *_) in enumerate(bed.CHAINS) if name not in ("gone", "dropped")]
NEVER = {"no-problem": 1, "near-duplicate": 1}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return bed.fill(tmp_path_factory.mktemp("export") / "w")


@pytest.fixture
def export(workspace, tmp_path):
    def go(name, folder="out", replace=False, roles=(), domains=(), **options):
        wanted = ExportRequest(name, Options(**options), roles, domains)
        return tmp_path / folder, exports.run(wanted, tmp_path / folder, workspace, Silent(), replace)

    return go


def load(folder, **more):
    found = datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"), **more)
    return {role: undecoded(split) for role, split in found.items()}


def undecoded(split):
    for name, feature in split.features.items():
        if isinstance(feature, datasets.Image):
            split = split.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            split = split.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return split.to_list()


def wanted_row(number):
    """The columns of a rollout by the testbed's tables, written down apart from the code."""
    name, _, outcome, labels = bed.CHAINS[number]
    problem, rollout = bed.problem_row(name), bed.rollout_row(number)
    same = (
        "domain",
        "role",
        "source",
        "source_row",
        "revision",
        "licence",
        "question",
        "choices",
        "answer",
        "accepted",
    )
    return {column: problem[column] for column in same} | {
        "rollout_id": rollout["rollout_id"],
        "problem_id": problem["problem_id"],
        "answer_type": problem["answer_type"],
        "policy": "p",
        "sample_index": number,
        "steps": rollout["steps"],
        "labels": None
        if labels is None
        else [
            {"value": v, "k": k, "m": m, "standard_error": None if v is None else 0.125, "weight": 1.0, "mode": "exact"}
            for v, k, m in labels
        ],
        "final_answer": rollout["answer"],
        "outcome": outcome,
        "outcome_rule": "choice",
        "finish": "stop",
    }


def shown(name):
    return [bed.IMAGE_FILES[each] for each in bed.PROBLEMS_OF[name][2]]


def by_role(numbers):
    """In the order of an export: shard by shard."""
    roles = {}

    def place(number):
        problem = bed.problem_id(bed.CHAINS[number][0])
        return shard_of(problem, DEFAULT_SHARDS), problem, number

    for number in sorted(numbers, key=place):
        roles.setdefault(bed.rollout_row(number)["role"], []).append(number)
    return roles


def test_types_are_written_down_as_the_library_does():
    types = {name: column.kind for name, column in columns.COLUMNS.items()} | {"images": pa.list_(columns.IMAGE)}
    ours = columns.schema(
        types | {"one": columns.IMAGE, "s": pa.struct([("a", pa.int64()), ("b", pa.list_(pa.bool_()))])}
    )
    library = datasets.Features.from_arrow_schema(ours)
    assert json.loads(library.arrow_schema.metadata[b"huggingface"]) == json.loads(ours.metadata[b"huggingface"])
    assert library.arrow_schema.types == ours.types
    assert columns.features({field.name: field.type for field in ours}) == library._to_yaml_list()
    assert library["images"] == datasets.List(datasets.Image())


def test_a_folder_that_datasets_loads_is_the_tables(export):
    folder, report = export("datasets")
    found = load(folder)
    expected = by_role(THERE)
    assert found.keys() == expected.keys()
    for role, numbers in expected.items():
        for row, number in zip(found[role], numbers, strict=True):
            images = row.pop("images")
            assert row == wanted_row(number)
            assert [image["bytes"] for image in images] == shown(bed.CHAINS[number][0])
    names = [image["path"] for rows in load(folder).values() for row in rows for image in row["images"]]
    assert {name.rpartition(".")[2] for name in names} == {"png", "jpg"}
    assert (report.rollouts.taken, report.rollouts.out, report.rollouts.rejected) == (15, 13, NEVER)
    assert report.steps.taken == sum(len(steps) for _, steps, *_ in bed.CHAINS)
    assert report.splits == {role: len(numbers) for role, numbers in expected.items()}
    assert json.loads((folder / "export.json").read_text())["rollouts"]["out"] == 13


def test_many_shards_and_small_groups_hold_the_same_rows(export, monkeypatch):
    whole, _ = export("datasets", "whole")
    monkeypatch.setattr(records, "GROUP", 1)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 2)
    monkeypatch.setattr(parquet.ParquetShards.__init__, "__defaults__", (600,))
    parts, _ = export("datasets", "parts")
    names = sorted(path.name for path in (parts / "data").iterdir())
    assert names[0].startswith("meta-00000-of-") and names[0] != "meta-00000-of-00001.parquet"
    assert len(names) > 6
    assert load(parts) == load(whole)


def test_the_card_says_where_rows_come_from_and_hides_this_machine(export, workspace):
    folder, report = export("datasets", roles=["train"])
    card = huggingface_hub.DatasetCard.load(folder / "README.md")
    assert card.data.license == "other"
    assert card.data.size_categories == ["n<1K"]
    assert card.data.to_dict()["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    text = card.text
    assert "| free | files | rows.jsonl | v1 | MIT | 3 |" in text
    assert "| closed | files | rows.jsonl |  | CC-BY-ND-4.0 | 2 |" in text
    assert "some/model" in text and "vllm 0.32.0" in text and "temperature 1.0" in text
    assert "decontaminate, for training problems shown by meta or test set: not run." in text
    assert "9 rollouts in = 7 out + 0 duplicate + 1 rejected near-duplicate + 1 rejected no-problem" in text
    assert "| rollout | rollouts | main | 15 | 15 |" in text
    assert "curate export datasets FOLDER --workspace WORK --role train" in text
    assert "somebody" not in text and str(workspace.root) not in text
    assert [(use.source, use.rows, use.concern) for use in report.concerns] == [
        ("closed", 2, "the licence forbids handing it on, or handing on what was made from it"),
        ("unlicensed", 2, "the licence is unknown"),
    ]
    assert "Look at these licences" in text


def test_a_runs_recipe_is_in_the_card_without_its_secrets(tmp_path):
    engine = {"urls": ["http://u:p@h"], "model": "/home/me/m", "args": {"api_key": "hf_x", "n": 1}}
    tree = {"rollout": {"engine": engine,
                        "sampling": {"max_tokens": 5}}, "path": "a/b.jsonl", "at": "s3://u:p@h/x"}  # fmt: skip
    assert facts.public(tree) == {
        "rollout": {"engine": {"urls": "(left out)", "model": "m", "args": {"api_key": "(left out)", "n": 1}},
                    "sampling": {"max_tokens": 5}}, "path": "a/b.jsonl", "at": "(left out)"}  # fmt: skip
    place = bed.fill(tmp_path / "w")
    run = place.root / "runs" / "1"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: '```x'\nrollout: {engine: {args: {api_key: hf_secret}}}\n")
    words = ["curate", "run", "/home/me/r.yaml", "--url", "http://h:1", "--engine-arg", "api_key=hf_secret",
             "--set", "rollout.engine.urls=[http://h]", "--set", "out=/home/me/x"]  # fmt: skip
    (run / "versions.json").write_text(json.dumps({"command": words}))
    exports.run(ExportRequest("datasets"), tmp_path / "out", place, Silent())
    text = (tmp_path / "out" / "README.md").read_text()
    assert "curate run r.yaml --url (left out) --engine-arg api_key=(left out)" in text
    assert "out=x" in text
    assert "````yaml\nname: '```x'" in text
    assert not re.search(r"hf_secret|http://h|/home/me", text)


def judged(number, threshold):
    """(steps, flags) up to the first step without a label."""
    _, steps, _, labels = bed.CHAINS[number]
    found = []
    for step, (value, _, _) in zip(steps, labels or (), strict=False):
        if value is None:
            break
        found.append((step.strip(), value > threshold))
    return [step for step, _ in found], [flag for _, flag in found]


LABELLED = [number for number in THERE if judged(number, 0)[0]]
# Reasons of formats that need a label for every step.
NO_LABEL = {"not-labelled": sum(1 for n in THERE if bed.CHAINS[n][1] and bed.CHAINS[n][3] is None), "no-steps": 1,
            "undefined": 1}  # fmt: skip


@pytest.mark.parametrize("threshold", [None, 0.0, 0.3])
def test_trl_reads_stepwise_supervision(export, threshold):
    folder, report = export("trl", threshold=threshold)
    (rows,) = load(folder).values()
    for row, number in zip(rows, by_role(LABELLED)["train"], strict=True):
        problem = bed.problem_row(bed.CHAINS[number][0])
        assert row["prompt"] == problem_text(problem["question"], problem["choices"])
        assert (row["completions"], row["labels"]) == judged(number, 0.5 if threshold is None else threshold)
        assert [image["bytes"] for image in row["images"]] == shown(bed.CHAINS[number][0])
    assert report.rollouts.rejected == NEVER | NO_LABEL
    kept = sum(len(judged(number, 0)[0]) for number in LABELLED)
    cut = sum(len(bed.CHAINS[n][1]) - len(judged(n, 0)[0]) for n in LABELLED)
    undefined = sum(len(bed.CHAINS[n][1]) for n in THERE if bed.CHAINS[n][3] and n not in LABELLED)
    assert (report.steps.out, report.steps.rejected["undefined"]) == (kept, cut + undefined)
    assert f"above {0.5 if threshold is None else threshold:g}" in (folder / "README.md").read_text()


def test_prm_trainer_of_trl_takes_the_rows_as_they_are(export, monkeypatch):
    """Every row through the trainer's own reading; in the last release that has the trainer."""
    mend()
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from transformers import AutoTokenizer
    from trl.experimental.prm import PRMTrainer

    folder, _ = export("trl")
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[3] / "data" / "demo" / "policy")
    (rows,) = load(folder).values()
    for row in rows:
        made = PRMTrainer.tokenize_row(
            row, tokenizer, step_separator="\n", max_length=None, max_completion_length=None,
            train_on_last_step_only=False, is_eval=False,
        )  # fmt: skip
        assert [label for label in made["labels"] if label != -100] == [int(label) for label in row["labels"]]
        assert len(made["input_ids"]) == len(made["labels"])


def test_webdataset_shards_load_and_are_the_same_twice(export, monkeypatch):
    folder, report = export("webdataset")
    again, _ = export("webdataset", "again")
    tars = sorted(path.relative_to(folder) for path in folder.rglob("*.tar"))
    assert [str(path) for path in tars] == [f"data/{role}-000000.tar" for role in ("meta", "test", "train")]
    assert all((folder / path).read_bytes() == (again / path).read_bytes() for path in tars)
    found = load(folder)
    for role, numbers in by_role(THERE).items():
        for row, number in zip(found[role], numbers, strict=True):
            name = bed.CHAINS[number][0]
            assert row["json"].pop("images") == [content_hash(data) for data in shown(name)]
            assert row["json"] == wanted_row(number)
            assert row["__key__"] == row["json"]["rollout_id"] if "__key__" in row else True
            fields = {
                field: row[field]["bytes"]
                for field in row
                if field not in ("json", "__key__", "__url__") and row[field]
            }
            endings = {bed.IMAGE_FILES["b"]: "jpg", bed.IMAGE_FILES["t"]: "jpg"}
            single = len(shown(name)) == 1
            assert fields == {
                (end if single else f"{place}.{end}"): data
                for place, data in enumerate(shown(name))
                for end in [endings.get(data, "png")]
            }
    assert report.rollouts.rejected == NEVER
    features = datasets.load_dataset_builder(str(folder), cache_dir=str(folder.parent / "cache")).info.features
    files = {"test": str(folder / "data" / "test-*.tar")}
    plain = datasets.load_dataset(
        "webdataset", data_files=files, features=features, cache_dir=str(folder.parent / "cache2")
    )
    assert undecoded(plain["test"]) == load(folder)["test"]
    monkeypatch.setattr(webdataset.WebDataset.__init__, "__defaults__", (500,))
    parts, _ = export("webdataset", "parts")
    assert len(list(parts.rglob("train-*.tar"))) > 2
    assert load(parts) == load(folder)


def test_licences_by_their_names():
    assert licences.concern("Apache-2.0") is licences.concern("CC-BY-NC-SA-4.0") is None
    assert "not known here" in licences.concern("challenge terms")
    assert licences.concern(None, made_here=True) is None
    for name in (None, " ", "Unknown", "other"):
        assert "unknown" in licences.concern(name)
    for name in ("CC-BY-NC-ND-4.0", "proprietary", "No redistribution", "All rights reserved", "non-distributable"):
        assert "forbids" in licences.concern(name)
    assert licences.on_the_hub({"MIT"}) == "mit"
    assert licences.on_the_hub({"MIT", "CC-BY-4.0"}) == ["cc-by-4.0", "mit"]
    assert licences.on_the_hub({"MIT", None}) == licences.on_the_hub({"challenge terms"}) == "other"


def test_a_folder_is_whole_or_not_there(export, tmp_path, monkeypatch):
    folder, _ = export("trl")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="give --replace"):
        export("trl")
    monkeypatch.setattr(exports.card, "text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export("datasets", replace=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    monkeypatch.undo()
    # Killed between the renames: the old export comes back, and yields to the new one.
    folder.rename(tmp_path / ".out.old")
    with pytest.raises(UserError, match="give --replace"):
        export("datasets")
    export("datasets", replace=True)
    assert "images" in load(folder)["train"][0]
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_nothing_foreign_is_deleted(export, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for place in ("mine", "file", "link"):
        with pytest.raises(UserError, match="another"):
            export("datasets", place, replace=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    export("datasets", "empty")
    assert (tmp_path / "empty" / target.MANIFEST).is_file()


def test_nothing_to_export_is_an_error_with_reasons(export, tmp_path):
    with pytest.raises(UserError, match=r"4 rejected not-labelled"):
        export("trl", roles=["meta"])
    with pytest.raises(UserError, match='no rollouts of domain "fre/train"; did you mean "free/train"'):
        export("datasets", domains=["fre/train"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no rollouts; run"):
        exports.run(ExportRequest("trl"), tmp_path / "o", Store.open(tmp_path / "w"), Silent())


class Recorder:
    """In place of the hub: what it was asked, and a repository that may be there already."""

    endpoint = "https://hub.example/mirror/"

    def __init__(self, there=None, error=None):
        self.calls, self.private, self.error = [], there, error

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.calls.append(("create", repo_id, repo_type, private, exist_ok))
        self.private = private if self.private is None else self.private

    def repo_info(self, repo_id, *, repo_type):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **given):
        if self.error:
            raise self.error
        self.calls.append(("upload", given))


@pytest.mark.parametrize("public", [False, True])
def test_a_push_is_private_unless_it_is_told_otherwise(tmp_path, public):
    hub = Recorder()
    assert push(tmp_path, "me/set", public, hub) == "https://hub.example/mirror/datasets/me/set"
    assert hub.calls[0] == ("create", "me/set", "dataset", not public, True)
    (_, given) = hub.calls[1]
    assert (given["repo_id"], given["folder_path"], given["repo_type"]) == ("me/set", tmp_path, "dataset")
    assert "data/*" in given["delete_patterns"] and "token" not in given
    # One that is there keeps its visibility: nothing goes into the wrong one.
    broken = (Recorder(error=OSError("401 Client Error\nmore")), Recorder(error=hubs.failures()[0]("401 Client Error")))
    for hub in (Recorder(there=public), *broken):
        with pytest.raises(UserError, match=r"already exists|401 Client Error; check"):
            push(tmp_path, "me/set", public, hub)
        assert len(hub.calls) == 1
    # The real library, which is told that there is no network.
    with pytest.raises(UserError, match="was not pushed to me/set"):
        push(tmp_path, "me/set", public, real_hub())
    there = huggingface_hub.HfApi(endpoint="http://localhost:1")
    assert there.endpoint == "http://localhost:1"
    assert all(hasattr(there, name) for name in ("create_repo", "repo_info", "upload_folder"))


def test_the_command_pushes_no_licence_that_nobody_looked_at(workspace, tmp_path, monkeypatch):
    hub = Recorder()
    monkeypatch.setattr("curate.exports.push.hub", lambda: hub)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    call = ["export", "datasets", str(tmp_path / "out"), "-w", str(workspace.root), "--push", "me/set"]
    result = CliRunner().invoke(app, call)
    assert isinstance(result.exception, UserError)
    assert "was not pushed: 2 rows of source closed: the licence forbids" in str(result.exception)
    assert "Look at the licence: 2 rows of source unlicensed: the licence is unknown." in result.output
    assert not hub.calls
    result = CliRunner().invoke(app, [*call, "--replace", "--any-licence", "--json"])
    assert json.loads(result.stdout)["pushed"] == "https://hub.example/mirror/datasets/me/set"
    assert "hf_verysecret" not in result.output
    assert [each[0] for each in hub.calls] == ["create", "upload"]


def test_options_without_effect_and_unknown_words_are_errors(workspace, tmp_path):
    for words, message in (
        (["dataset"], 'no export format "dataset"; did you mean "datasets"'),
        (["datasets", "--threshold", "0.5"], "--threshold has no effect on format datasets"),
        (["trl", "--system", __file__], "--system has no effect on format trl"),
        (["trl", "--role", "tran"], 'no set "tran"; did you mean "train"'),
        (["trl", "--public"], "--public has no effect without --push"),
        (["trl", "--push", "justname"], "owner/name"),
    ):
        call = ["export", words[0], str(tmp_path / "out"), *words[1:], "-w", str(workspace.root)]
        result = CliRunner().invoke(app, call)
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
    assert not list(tmp_path.iterdir())
    help_text = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).output
    assert all(name in help_text for name in FORMATS)
