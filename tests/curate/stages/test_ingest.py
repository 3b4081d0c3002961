"""Ingest with real files: every row ends in exactly one place, with its reason, and nothing ends the run."""

import csv
import io
import json
import os
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import pipeline
from curate.errors import UserError
from curate.runtime.durable import sealed, unsealed
from curate.runtime.reporter import Silent
from curate.tables import catalog
from curate.tables.schema import IMAGES, PROBLEMS, REJECTS
from curate.tables.store import Store


def image(colour="red", size=(40, 30), kind="PNG", **how) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **how)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60,000 x 60,000 pixels."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", data) + part(b"IEND", b"")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "images").mkdir()
    for name, data in {
        "good.png": image(),
        "blue.jpg": image("blue", kind="JPEG"),
        "cut.png": image("green", size=(300, 300))[:-60],
        "bomb.png": bomb(),
        "text.png": b"this is no image",
    }.items():
        (tmp_path / "images" / name).write_bytes(data)
    (tmp_path / "secret.png").write_bytes(image("black"))
    return tmp_path


def ingest(place, sources, replace=(), workspace="w"):
    tree = {"name": "t", "ingest": {"sources": sources}}
    recipe = place / "recipe.yaml"
    recipe.write_text(json.dumps(tree))
    target = Store.open(place / workspace)
    ledgers = pipeline.run(pipeline.load(recipe), target, Silent(), ["ingest"], frozenset(replace))
    return target, ledgers["ingest"]


def files(**more):
    columns = {"id": "id", "question": "question", "answer": "answer", "choices": "choices", "image": "image"}
    return {"kind": "files", "name": "mess", "path": "rows.jsonl", "root": "images", "columns": columns} | more


def line(identity, **more) -> bytes:
    row = {"id": identity, "question": f"How many? {identity}", "answer": "3", "choices": None, "image": "good.png"}
    return json.dumps(row | more).encode() + b"\n"


MESS = [
    (line("fine"), None),
    (line("letters", choices=["x", "y"], answer="B"), None),
    (line("by-text", choices='["two", "three"]', answer="three"), None),
    (line("python-list", choices="['a', 'b']", answer="A"), None),
    (line("cut", image="cut.png"), "image-truncated"),
    (line("bomb", image="bomb.png"), "image-too-large"),
    (line("gone", image="nowhere.png"), "image-missing"),
    (line("not-an-image", image="text.png"), "image-unreadable"),
    (line("outside", image="../secret.png"), "image-outside-root"),
    (line("null-question", question=None), "null-question"),
    (line("blank-question", question="  "), "empty-question"),
    (line("null-answer", answer=None), "null-answer"),
    (line("not-a-choice", choices=["x", "y"], answer="E"), "answer-not-in-choices"),
    (b'{"id": "broken", "question": \n', "malformed-line"),
    (b'["a", "list"]\n', "malformed-line"),
    (b'{"id": "bytes", "question": "\xff\xfe", "answer": "1"}\n', "not-utf-8"),
    (line("fine", question="How many? fine"), "duplicate"),
    (line("half-pair", question="\ud83d?"), "not-utf-8"),
    (line("half-pair-path", image="\ud83d.png"), "image-missing"),
    (line("nul-path", image="a\0b.png"), "image-missing"),
    (line("no-path", image=""), "image-missing"),
    (line("nested", choices="[" * 5000), "unusable-choices"),
]


def test_every_odd_row_is_a_reject_with_its_reason_and_the_run_goes_on(place):
    (place / "rows.jsonl").write_bytes(b"".join(data for data, _ in MESS))
    workspace, ledger = ingest(place, [files()])
    expected = [reason for _, reason in MESS if reason]
    rejects = workspace.read(REJECTS).to_pylist()
    assert sorted(row["reason"] for row in rejects) == sorted(expected)
    assert all(row["detail"] for row in rejects)
    assert ledger.taken == len(MESS)
    assert ledger.out == len(MESS) - len(expected)
    assert ledger.duplicate == 1
    assert ledger.adds_up()
    booked = catalog.ledger(workspace).to_dicts()[0]
    assert booked["taken"] == booked["out"] + booked["duplicate"] + booked["rejected"] + booked["failed"]


def test_images_are_kept_byte_for_byte_once(place):
    (place / "rows.jsonl").write_bytes(line("a") + line("b") + line("c", image="blue.jpg"))
    workspace, _ = ingest(place, [files()])
    stored = {row["bytes"]: row for row in workspace.read(IMAGES).to_pylist()}
    assert stored.keys() == {(place / "images" / name).read_bytes() for name in ("good.png", "blue.jpg")}
    assert {(row["format"], row["width"], row["height"]) for row in stored.values()} == {
        ("PNG", 40, 30),
        ("JPEG", 40, 30),
    }


def test_ingest_twice_is_ingest_once_and_a_changed_source_is_refused(place):
    (place / "rows.jsonl").write_bytes(line("a") + line("b"))
    workspace, first = ingest(place, [files()])
    before = workspace.read(PROBLEMS).to_pylist()
    workspace, second = ingest(place, [files()])
    assert workspace.read(PROBLEMS).to_pylist() == before
    assert (second.out, second.skipped) == (first.out, first.out)
    with pytest.raises(UserError, match=r"licence: None -> MIT.*--replace mess"):
        ingest(place, [files(licence="MIT")])
    workspace, _ = ingest(place, [files(licence="MIT")], replace=["mess"])
    assert {row["licence"] for row in workspace.read(PROBLEMS).to_pylist()} == {"MIT"}


def test_a_killed_ingest_goes_on_without_a_double_row(place):
    (place / "rows.jsonl").write_bytes(b"".join(line(f"r{n}") for n in range(30)))
    workspace, _ = ingest(place, [files()])
    whole = workspace.read(PROBLEMS).to_pylist()
    # As a kill between the last commit and the record leaves it: rows there, lineage not complete.
    record = workspace.partition(PROBLEMS, "mess").folder / "lineage.json"
    record.write_bytes(sealed(unsealed(record.read_bytes()) | {"complete": False, "ledger": None}))
    some = workspace.partition(PROBLEMS, "mess").files()[0]
    some.with_suffix(".done").unlink()
    workspace, ledger = ingest(place, [files()])
    key = lambda row: row["problem_id"]  # noqa: E731
    assert sorted(workspace.read(PROBLEMS).to_pylist(), key=key) == sorted(whole, key=key)
    assert ledger.out == 30


def test_meta_and_train_never_share_an_image(place):
    (place / "rows.jsonl").write_bytes(line("a") + line("b", image="blue.jpg"))
    (place / "meta.jsonl").write_bytes(line("m", question="Other?"))
    sources = [files(), files(name="meta", path="meta.jsonl", role="meta")]
    workspace, ledger = ingest(place, sources)
    assert ledger.rejected == {"overlaps-train": 1}
    assert {row["role"] for row in workspace.read(PROBLEMS).to_pylist()} == {"train"}


def test_csv_and_parquet_hold_the_same_problems(place):
    rows = [{"q": f"Sum {n}?", "a": str(n), "img": "good.png"} for n in range(5)]
    with (place / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["q", "a", "img"])
        writer.writeheader()
        writer.writerows(rows)
    data = (place / "images" / "good.png").read_bytes()
    structs = [row | {"img": {"bytes": data, "path": None}} for row in rows]
    pq.write_table(pa.Table.from_pylist(structs), place / "rows.parquet")
    columns = {"question": "q", "answer": "a", "image": "img"}
    got = []
    for name in ("rows.csv", "rows.parquet"):
        source = {"kind": "files", "name": "s", "path": name, "root": "images", "columns": columns}
        workspace, _ = ingest(place, [source], workspace=f"w-{name}")
        problems = workspace.read(PROBLEMS).to_pylist()
        got.append(sorted((row["problem_id"], row["question"], row["answer"]) for row in problems))
        assert [row["bytes"] for row in workspace.read(IMAGES).to_pylist()] == [data]
    assert got[0] == got[1]
    assert len(got[0]) == 5


def test_a_csv_row_with_bad_bytes_or_cells_costs_only_itself(place):
    (place / "rows.csv").write_bytes(b"q,a\nOne?,1\nTwo\xff?,2\nThree?,3,4\nFour?,4\nFive?,\n")
    source = {"kind": "files", "name": "s", "path": "rows.csv", "columns": {"question": "q", "answer": "a"}}
    workspace, ledger = ingest(place, [source])
    assert ledger.rejected == {"not-utf-8": 1, "malformed-line": 1, "null-answer": 1}
    assert sorted(row["answer"] for row in workspace.read(PROBLEMS).to_pylist()) == ["1", "4"]


def test_a_folder_of_the_hub_kind_loads_through_datasets_with_original_bytes(place):
    import datasets

    folder = place / "hub"
    folder.mkdir()
    data = (place / "images" / "blue.jpg").read_bytes()
    features = datasets.Features(
        {"question": datasets.Value("string"), "label": datasets.Value("string"), "image": datasets.Image()}
    )
    made = datasets.Dataset.from_list(
        [{"question": f"What {n}?", "label": str(n), "image": {"bytes": data, "path": None}} for n in range(4)],
        features=features,
    )
    made.to_parquet(str(folder / "train.parquet"))
    columns = {"question": "question", "answer": "label", "image": "image"}
    source = {"kind": "hub", "name": "h", "dataset": "hub", "columns": columns, "limit": 3}
    workspace, ledger = ingest(place, [source])
    assert ledger.out == 3
    assert [row["bytes"] for row in workspace.read(IMAGES).to_pylist()] == [data]
    with pytest.raises(UserError, match='no column "lable"'):
        ingest(place, [source | {"name": "x", "columns": columns | {"answer": "lable"}}])
    with pytest.raises(UserError, match='has no split "nowhere", it has train'):
        ingest(place, [source | {"name": "y", "split": "nowhere"}])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"path": "none.jsonl"}, "there is no file"),
        ({"columns": {"question": "qestion"}}, 'did you mean "question"'),
        ({"path": "recipe.yaml"}, "convert it first"),
    ],
)
def test_a_wrong_source_is_one_sentence(place, more, said):
    (place / "rows.jsonl").write_bytes(line("a"))
    with pytest.raises(UserError) as error:
        ingest(place, [files(**more)])
    assert said in str(error.value)


def test_replacing_a_source_keeps_the_images_that_others_show(place):
    (place / "rows.jsonl").write_bytes(line("a") + line("b", image="blue.jpg"))
    (place / "more.jsonl").write_bytes(line("c"))
    sources = [files(), files(name="more", path="more.jsonl", domain="other")]
    workspace, _ = ingest(place, sources)
    assert workspace.read(IMAGES).num_rows == 2
    (place / "rows.jsonl").write_bytes(line("d", image="blue.jpg"))
    for _ in range(2):
        workspace, ledger = ingest(place, sources, replace=["mess"])
        problems, images = workspace.read(PROBLEMS).to_pylist(), workspace.read(IMAGES).to_pylist()
        assert len(problems) == 2
        assert sorted(h for row in problems for h in row["image_hashes"]) == sorted(row["image_hash"] for row in images)
        assert {row["problem_id"] for row in images} == {row["problem_id"] for row in problems}
        assert ledger.adds_up()


def test_large_images_are_committed_in_small_chunks(place, monkeypatch):
    from curate.stages.ingest import ingest as stage

    monkeypatch.setattr(stage, "CHUNK_BYTES", 1)
    (place / "rows.jsonl").write_bytes(b"".join(line(f"r{n}") for n in range(40)) + line("r0"))
    workspace, ledger = ingest(place, [files()])
    assert (ledger.out, ledger.duplicate) == (40, 1)
    assert len(workspace.partition(PROBLEMS, "mess").files()) == 40
    twin = next(row for row in workspace.read(REJECTS).to_pylist() if row["reason"] == "duplicate")
    assert twin["detail"].split()[0] in workspace.read(PROBLEMS)["problem_id"].to_pylist()


def test_a_text_only_question_is_in_one_role_only(place):
    (place / "rows.jsonl").write_bytes(line("a", image=None))
    (place / "test.jsonl").write_bytes(line("a", image=None) + line("b", image=None))
    sources = [files(), files(name="test", path="test.jsonl", role="test", domain="other")]
    workspace, ledger = ingest(place, sources)
    assert ledger.rejected == {"overlaps-train": 1}
    assert sorted(row["role"] for row in workspace.read(PROBLEMS).to_pylist()) == ["test", "train"]


def test_replace_of_an_unknown_source_is_one_sentence(place):
    (place / "rows.jsonl").write_bytes(line("a"))
    with pytest.raises(UserError, match='did you mean "mess"'):
        ingest(place, [files()], replace=["mes"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_workspace_that_cannot_be_written_is_one_sentence(place):
    (place / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"cannot be written|not writable"):
        ingest(place, [files()], workspace="locked/w")


class Noting(Silent):
    """Keeps what a stage says."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def said(place, **source):
    tree = {"name": "t", "ingest": {"sources": [{"kind": "files", "name": "s", **source}]}}
    (place / "recipe.yaml").write_text(json.dumps(tree))
    reporter = Noting()
    target = Store.open(place / "noted")
    ledgers = pipeline.run(pipeline.load(place / "recipe.yaml"), target, reporter, ["ingest"], frozenset({"s"}))
    return ledgers["ingest"], reporter.said


def test_worked_solutions_are_no_answers_and_the_cure_is_said(place):
    solved = [
        {"question": f"{n} + 1?", "answer": f"Add one to {n}.\n{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(9)
    ]
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, solved)))
    ledger, notes = said(place, path="a.jsonl")
    assert ledger.rejected == {"answer-is-a-solution": 9}
    assert [note for note in notes if "9 of 9 rows" in note and "answer_behind: '####'" in note]
    ledger, notes = said(place, path="a.jsonl", answer_behind="####")
    assert (ledger.out, notes) == (9, [])
    boxed = [
        {"question": f"{n} + 1?", "answer": f"We add one to {n}.\nSo the sum is \\boxed{{{n + 1}}}."} for n in range(9)
    ]
    (place / "b.jsonl").write_text("\n".join(map(json.dumps, boxed)))
    ledger, notes = said(place, path="b.jsonl")
    assert ledger.rejected == {"answer-is-a-solution": 9}
    assert "answer_form: solution" in notes[0]
    assert said(place, path="b.jsonl", answer_form="solution")[0].out == 9
    # A long text may be the answer, where the recipe says that answers are texts.
    assert said(place, path="a.jsonl", answer_type="text")[0].out == 9


def test_numbers_that_seem_to_count_from_1_are_said(place):
    labelled = [{"question": f"{n}?", "answer": "1", "s": ["a", "b", "c"], "l": n % 2 + 1} for n in range(30)]
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, labelled)))
    form = {"steps": "s", "labels": "l", "labels_form": "first-error"}
    assert "chain.labels_from: 1" in said(place, path="a.jsonl", chain=form)[1][0]
    assert said(place, path="a.jsonl", chain=form | {"labels_from": 1})[1] == []
    (place / "a.jsonl").write_text("\n".join(json.dumps(row | {"l": row["l"] - 1}) for row in labelled))
    assert said(place, path="a.jsonl", chain=form)[1] == []
    index = {"columns": {"choices": "s", "answer": "l"}, "answer_form": "index"}
    (place / "a.jsonl").write_text("\n".join(map(json.dumps, labelled)))
    assert "answer_from: 1" in said(place, path="a.jsonl", **index)[1][0]
