"""Adapters: what each kind of file can hold, and that no row of it can end a run."""

import io
import json
import os
import subprocess
import sys
import zipfile
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.errors import UserError
from curate.recipe.parsing import validate
from curate.recipe.source_sections import ColumnMap, FilesSource, HubSource, PackageSource
from curate.sources import columns, open_source
from curate.sources.base import BadRow, SourceRow
from curate.sources.roots import Folder


def image(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "one.png").write_bytes(image())
    return tmp_path


def read(place, name, data=None, **more):
    if data is not None:
        (place / name).write_bytes(data)
    return list(open_source(FilesSource(kind="files", name="s", path=name, **more), place).rows())


def line(**cells) -> bytes:
    return json.dumps({"question": "q", "answer": "1"} | cells).encode() + b"\n"


def reasons(rows):
    return [row.error.reason if isinstance(row, BadRow) else None for row in rows]


IMAGE = ColumnMap(image="image")


def mapped(record, root=None, **settings):
    """The rows of one record of a source with these settings."""
    source = HubSource(kind="hub", name="h", dataset="d", **settings)
    return list(columns.rows(record, source, 1, root))


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (["a", "b"], ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("['it\\'s', \"b\"]", ("it's", "b")),
        ({"A": "x", "B": "y"}, ("x", "y")),
        ([1, 2.5, 3.0], ("1", "2.5", "3")),
        (None, ()),
        ("", ()),
        ([], ()),
    ],
)
def test_choices(value, seen):
    (row,) = mapped({"question": "q", "answer": "1", "c": value}, columns=ColumnMap(choices="c"))
    assert isinstance(row, SourceRow)
    assert row.choices == seen


@pytest.mark.parametrize("value", ["a, b", "5", "[" * 5000, "__import__('os').getcwd()", [["a"], {"b": 1}]])
def test_choices_that_are_none(value):
    (row,) = mapped({"question": "q", "answer": "1", "c": value}, columns=ColumnMap(choices="c"))
    assert isinstance(row, BadRow)
    assert row.error.reason in ("unusable-choices", "unusable-value")


@pytest.mark.parametrize(
    ("value", "seen"),
    [(3, "3"), (3.0, "3"), (0.1, "0.1"), (float("nan"), None), (True, "True"), (["7"], "7"), (Decimal("1.50"), "1.50")],
)
def test_answers_of_any_kind_are_texts(value, seen):
    assert mapped({"question": "q", "answer": value})[0].answer == seen


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.binary(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
def test_a_cell_of_any_kind_gives_a_row_or_a_bad_row(value):
    record = {"question": value, "answer": value, "c": value, "i": value, "id": value, "d": value}
    whole = ColumnMap(id=("id", "d.x"), question="{question}\n{id}", choices="c", image=("i", "d"), domain="d")
    talk = ColumnMap(conversation="c", image="i", answer_type="d", decimals="id")
    for settings in (
        {"columns": whole},
        {"columns": whole, "choices_form": "lettered", "answer_form": "index"},
        {"columns": whole, "choices_form": "commas", "answer_form": "accepted", "form": "instructed"},
        {"columns": talk, "answer_types": {"text": "text"}, "form": "cauldron", "where": {"d": (None, "x")}},
    ):
        for row in mapped(record, **settings):
            assert row.source_row.encode()
            if isinstance(row, SourceRow):
                assert all(isinstance(data, bytes) for data in row.images)


def test_images_by_path_bytes_struct_and_list(place):
    data = image("blue")
    for value, seen in [
        ("one.png", [image()]),
        (data, [data]),
        ({"bytes": data, "path": "gone.png"}, [data]),
        ({"bytes": None, "path": "one.png"}, [image()]),
        (["one.png", {"bytes": data}], [image(), data]),
        (None, []),
        (["one.png", None], [image()]),
    ]:
        (row,) = mapped({"question": "q", "answer": "1", "image": value}, Folder(place), columns=IMAGE)
        assert list(row.images) == seen


def test_no_path_leads_out_of_the_folder_or_to_what_is_no_file(place):
    (place / "images").mkdir()
    (place / "images" / "in.png").write_bytes(image())
    (place / "images" / "out.png").symlink_to(place / "one.png")
    (place / "images" / "round.png").symlink_to("round.png")
    os.mkfifo(place / "images" / "pipe.png")
    expected = {
        "in.png": None,
        "./x/../in.png": None,
        str(place / "images" / "in.png"): None,
        "out.png": "image-outside-root",
        "../one.png": "image-outside-root",
        str(place / "one.png"): "image-outside-root",
        "round.png": "image-missing",
        "pipe.png": "image-missing",
        ".": "image-missing",
        "": "image-missing",
        "in.png/x": "image-missing",
        "\0": "image-missing",
        "\ud800": "image-missing",
        "x" * 5000: "image-unreadable",
    }
    data = b"".join(line(image=path) for path in expected)
    assert reasons(read(place, "rows.jsonl", data, root="images", columns=IMAGE)) == list(expected.values())


def test_json_lines_may_lack_columns_that_others_have(place):
    rows = read(place, "rows.jsonl", line() + line(image="one.png"), columns=IMAGE)
    assert [len(row.images) for row in rows] == [0, 1]
    with pytest.raises(UserError, match=r'no column "imgae".*did you mean "image"'):
        read(place, "rows.jsonl", columns=ColumnMap(image="imgae"))


def test_the_limit_counts_rows_and_numbers_name_lines(place):
    rows = read(place, "rows.jsonl", b"broken\n" + line() * 5, limit=3)
    assert [row.source_row for row in rows] == ["1", "2", "3"]
    assert reasons(rows) == ["malformed-line", None, None]


def test_a_file_that_is_not_utf_8_gives_rejects_for_its_lines(place):
    text = json.dumps({"question": "Größe?", "answer": "1"}, ensure_ascii=False) + "\n"
    assert set(reasons(read(place, "latin.jsonl", (text * 3).encode("latin-1")))) == {"not-utf-8"}
    assert reasons(read(place, "mark.jsonl", (text * 2).encode("utf-8-sig"))) == [None, None]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_json_lines_with_rejects(tmp_path_factory, lines):
    place = tmp_path_factory.mktemp("bytes")
    rows = read(place, "rows.jsonl", line() + b"\n".join(lines))
    assert rows[0].question == "q"
    assert len({row.source_row for row in rows}) == len(rows)


def test_csv_cells_of_any_size_unclosed_quotes_and_line_breaks(place):
    data = b'question,answer\n"two\nlines",1\n' + b"x" * 200_000 + b',2\nfine,3\n\n"never closed,4\n'
    rows = read(place, "rows.csv", data)
    assert [row.question for row in rows] == ["two\nlines", "x" * 200_000, "fine", '"never closed']
    assert [row.source_row for row in rows] == ["1", "2", "3", "5"]
    assert read(place, "marked.csv", b"\xef\xbb\xbfquestion,answer\nq,1\n")[0].question == "q"
    assert read(place, "empty.csv", b"") == []


def test_parquet_texts_that_are_not_utf_8_cost_only_their_row(place):
    questions = pa.array([b"fine", b"\xff\xfe", b"too"]).view(pa.string())
    pq.write_table(pa.table({"question": questions, "answer": ["1", "2", "3"]}), place / "rows.parquet")
    assert reasons(read(place, "rows.parquet")) == [None, "not-utf-8", None]


@pytest.mark.parametrize("cut", [5, -20])
def test_a_damaged_parquet_file_is_one_sentence(place, cut):
    pq.write_table(pa.table({"question": ["q"], "answer": ["1"]}), place / "whole.parquet")
    with pytest.raises(UserError, match="no readable Parquet file"):
        read(place, "rows.parquet", (place / "whole.parquet").read_bytes()[:cut])


def test_a_missing_image_folder_is_one_sentence(place):
    with pytest.raises(UserError, match="no image folder or archive at nowhere"):
        read(place, "rows.jsonl", line(), root="nowhere")


def hub(place, **more):
    return list(open_source(HubSource(kind="hub", name="h", dataset="hub", **more), place).rows())


def test_a_folder_of_images_loads_through_datasets_byte_for_byte(place):
    (place / "hub" / "train").mkdir(parents=True)
    (place / "hub" / "train" / "a.png").write_bytes(image("green"))
    about = {"file_name": "a.png", "question": "Colour?", "answer": "green"}
    (place / "hub" / "train" / "metadata.jsonl").write_text(json.dumps(about) + "\n")
    (row,) = hub(place, columns=IMAGE)
    assert (row.question, row.answer, list(row.images)) == ("Colour?", "green", [image("green")])


ODD_TEXTS = ["007", "None", "NA", "nan", "2024-02-29", "2024-02-29T00:00:00", "1e3", "1.50", "true", "12:30"]


def test_texts_stay_texts_through_the_hub_whatever_they_look_like(place):
    (place / "hub").mkdir()
    told = [{"question": f"q{number}", "answer": text} for number, text in enumerate(ODD_TEXTS)]
    files = {
        "a.csv": "question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in told),
        "a.tsv": "question\tanswer\n" + "".join(f"{row['question']}\t{row['answer']}\n" for row in told),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in told),
        "a.json": json.dumps(told),
    }
    for name, text in files.items():
        (place / "hub" / name).write_text(text)
        assert [row.answer for row in hub(place)] == ODD_TEXTS, name
        (place / "hub" / name).unlink()
    (place / "hub" / "train").mkdir()
    (place / "hub" / "train" / "a.png").write_bytes(image("green"))
    for ending in ("csv", "jsonl"):
        about = [{"file_name": "a.png", **row} for row in told]
        text = "file_name,question,answer\n" + "".join(",".join(row.values()) + "\n" for row in about)
        lines = "".join(json.dumps(row) + "\n" for row in about)
        (place / "hub" / "train" / f"metadata.{ending}").write_text(text if ending == "csv" else lines)
        found = hub(place, columns=IMAGE)
        assert [row.answer for row in found] == ODD_TEXTS
        assert all(list(row.images) == [image("green")] for row in found)
        (place / "hub" / "train" / f"metadata.{ending}").unlink()


def test_a_table_that_is_written_oddly_keeps_its_texts_too(place):
    (place / "hub").mkdir()
    (place / "hub" / "a.csv").write_text("'q,1'|007\nq2|None\n")
    about = {"config_name": "a", "data_files": "a.csv", "sep": "|", "quotechar": "'", "names": ["question", "answer"]}
    (place / "hub" / "README.md").write_text(f"---\nconfigs: {json.dumps([about])}\n---\n")
    assert [(row.question, row.answer) for row in hub(place)] == [("q,1", "007"), ("q2", "None")]


def test_what_a_dataset_cannot_be_opened_for_is_said_with_the_cure(place):
    (place / "hub").mkdir()
    (place / "hub" / "hub.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(UserError, match=r"hub has a loading script.*refs/convert/parquet.*kind files"):
        hub(place)
    (place / "hub" / "hub.py").unlink()
    many = [f"part-{number}" for number in range(30)]
    for name in many:
        (place / "hub" / name).mkdir()
        (place / "hub" / name / "dev.jsonl").write_bytes(line())
    files = [f"- config_name: {name}\n  data_files:\n  - {{split: dev, path: {name}/dev.jsonl}}" for name in many]
    (place / "hub" / "README.md").write_text("---\nconfigs:\n" + "\n".join(files) + "\n---\n")
    with pytest.raises(UserError) as error:
        hub(place)
    assert all(name in str(error.value) for name in [*many, "set config"])
    with pytest.raises(UserError, match='no config "part-99"'):
        hub(place, config="part-99")
    with pytest.raises(UserError, match='no split "train", it has dev'):
        hub(place, config="part-7")
    assert len(hub(place, config="part-7", split="dev")) == 1


def test_images_in_structs_and_lists_load_through_datasets_byte_for_byte(place):
    import datasets

    (place / "hub").mkdir()
    data = {"bytes": image("green"), "path": None}
    kind = {"question": datasets.Value("string"), "answer": datasets.Value("string")}
    kind |= {"m": {"pic": datasets.Image()}, "s": datasets.List({"pic": datasets.Image()})}
    rows = [{"question": "q", "answer": "7", "m": {"pic": data}, "s": [{"pic": data}, {"pic": data}]}]
    made = datasets.Dataset.from_list(rows, features=datasets.Features(kind))
    made.to_parquet(str(place / "hub" / "train.parquet"))
    (row,) = hub(place, columns=ColumnMap(image=("m.pic", "s.pic")))
    assert list(row.images) == [image("green")] * 3


def test_lists_of_images_load_through_datasets_byte_for_byte(place):
    import datasets

    (place / "hub").mkdir()
    data = [image("green"), image("blue")]
    kind = {"question": datasets.Value("string"), "answer": datasets.Value("int32")}
    kind["images"] = datasets.List(datasets.Image())
    rows = [{"question": "q", "answer": 7, "images": [{"bytes": one, "path": None} for one in data]}]
    made = datasets.Dataset.from_list(rows, features=datasets.Features(kind))
    made.to_parquet(str(place / "hub" / "train.parquet"))
    (row,) = hub(place, columns=ColumnMap(image="images"))
    assert list(row.images) == data
    assert row.answer == "7"


def test_a_dataset_that_breaks_in_the_middle_is_one_sentence(place):
    (place / "hub").mkdir()
    pq.write_table(pa.table({"question": ["q"], "answer": ["1"]}), place / "hub" / "a.parquet")
    (place / "hub" / "b.parquet").write_bytes((place / "hub" / "a.parquet").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"stopped in the middle|cannot be opened"):
        hub(place)


def test_a_line_that_is_broken_costs_its_row_through_the_hub_too(place):
    (place / "hub").mkdir()
    (place / "hub" / "rows.jsonl").write_bytes(line() + b"{broken\n" + line())
    assert reasons(hub(place)) == [None, "malformed-line", None]


def test_a_template_leaves_out_lines_whose_columns_are_empty():
    where = ColumnMap(question="Context: {hint}\n{meta.text} ({unit})\nEnd.")
    both = {"hint": "h", "meta": {"text": "t"}, "unit": "cm", "answer": "1"}
    assert mapped(both, columns=where)[0].question == "Context: h\nt (cm)\nEnd."
    assert mapped(both | {"hint": None, "unit": ""}, columns=where)[0].question == "t ()\nEnd."
    # What a cell holds is never read as a template.
    assert mapped(both | {"hint": "{unit}"}, columns=where)[0].question.startswith("Context: {unit}\n")


def test_several_columns_name_a_row_and_hold_its_images():
    a, b = image("red"), image("blue")
    record = {"ID": 7, "key": "2steps_1", "question": "q", "answer": "1", "image_1": a, "image_2": None, "image_3": b}
    (row,) = mapped(record, columns=ColumnMap(id=("ID", "key"), image=("image_1", "image_2", "image_3")))
    assert row.source_row == "7-2steps_1"
    assert list(row.images) == [a, b]


@pytest.mark.parametrize(
    ("answer", "seen"),
    [(0, "A"), ("2", "C"), (2.0, "C"), (None, None), (3, "answer-not-in-choices"), ("-1", "answer-not-in-choices"),
     ("B", "answer-not-in-choices")],
)  # fmt: skip
def test_an_index_is_a_letter_from_0(answer, seen):
    record = {"question": "q", "answer": answer, "c": ["x", "y", "z"]}
    (row,) = mapped(record, columns=ColumnMap(choices="c"), answer_form="index")
    assert (row.error.reason if isinstance(row, BadRow) else row.answer) == seen


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (["a", "b"], ("a", "b")),
        ("['$6.0', '6']", ("$6.0", "6")),
        ("[0, 1)", ("[0, 1)",)),
        ("plain", ("plain",)),
        ([None, "", "x"], ("x",)),
        ([], (None,)),
        (None, (None,)),
    ],
)
def test_several_accepted_answers(answer, seen):
    (row,) = mapped({"question": "q", "answer": answer}, answer_form="accepted")
    assert (row.answer, *row.accepted) == seen


def test_choices_in_one_text():
    record = {"question": "q", "answer": "B", "c": "A. 3; B. 4 cm; C. None of the above"}
    (row,) = mapped(record, columns=ColumnMap(choices="c"), choices_form="lettered")
    assert row.choices == ("3", "4 cm", "None of the above")
    (row,) = mapped(record | {"c": "red, blue,green"}, columns=ColumnMap(choices="c"), choices_form="commas")
    assert row.choices == ("red", "blue", "green")
    (row,) = mapped(record | {"c": "3 or 4"}, columns=ColumnMap(choices="c"), choices_form="lettered")
    assert row.error.reason == "unusable-choices"


def test_a_conversation_is_a_problem_for_each_turn():
    talk = [{"user": "One?", "assistant": "1"}, {"user": "Two?", "assistant": "2"}]
    rows = mapped({"id": "x", "texts": talk}, columns=ColumnMap(id="id", conversation="texts"))
    assert [(row.source_row, row.question, row.answer) for row in rows] == [("x/0", "One?", "1"), ("x/1", "Two?", "2")]
    llava = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "<image>\nOne?"},
        {"from": "gpt", "value": "1"},
        {"from": "human", "value": "never answered"},
    ]
    (row,) = mapped({"c": llava}, columns=ColumnMap(conversation="c"), turns=3)
    assert (row.question, row.answer) == ("<image>\nOne?", "1")
    for odd in (None, [], "text", [{"from": "human", "value": "?"}]):
        (row,) = mapped({"c": odd}, columns=ColumnMap(conversation="c"))
        assert row.error.reason == "no-conversation"
    rows = mapped({"texts": [*talk, {"user": "Three?", "assistant": {}}]}, columns=ColumnMap(conversation="texts"))
    assert [row.error.reason for row in rows] == ["unusable-value"]


def test_rows_that_the_recipe_does_not_want_are_counted():
    for value, reason in (("a", None), (3, None), (None, "not-wanted"), ("b", "not-wanted")):
        (row,) = mapped({"question": "q", "answer": "1", "kind": value}, where={"kind": ("a", 3)})
        assert (row.error.reason if isinstance(row, BadRow) else None) == reason
    (row,) = mapped({"question": "q", "answer": "1", "image": None}, columns=IMAGE, require_image=True)
    assert row.error.reason == "no-image"


def test_the_rows_own_answer_type_and_decimals():
    settings = {
        "columns": ColumnMap(choices="c", answer_type="type", decimals="precision"),
        "answer_types": {"float": "number", "text": "text"},
    }
    record = {"question": "q", "answer": "1.25", "c": None, "type": "float", "precision": 1.0}
    (row,) = mapped(record, **settings)
    assert row.answer_type == "number"
    assert row.tolerance == pytest.approx(0.05 / 1.25)
    (row,) = mapped(record | {"answer": "0", "precision": 2.0}, **settings)
    assert row.tolerance == 0.005
    (row,) = mapped(record | {"type": "text", "answer": "x", "precision": float("nan")}, **settings)
    assert (row.answer_type, row.tolerance) == ("text", None)
    (row,) = mapped(record | {"c": ["a", "b"], "answer": "a", "precision": None}, **settings)
    assert row.answer_type is None
    (row,) = mapped(record | {"type": "picture"}, **settings)
    assert row.error.reason == "unknown-answer-type"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"turns": 2}, "columns.conversation"),
        ({"answer_form": "index"}, "columns.choices"),
        ({"answer_types": {"a": "text"}}, "columns.answer_type"),
        ({"columns": ColumnMap(answer_type="t")}, "answer_types"),
        ({"form": "couldron"}, 'did you mean "cauldron"'),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mapped({}, **settings)


@pytest.mark.parametrize("top", ["", "images/"])
def test_images_in_a_zip_are_read_in_place(place, top):
    with zipfile.ZipFile(place / "images.zip", "w") as archive:
        archive.writestr(f"{top}a/1.png", image("green"))
        archive.writestr(f"{top}a/odd name.png", image("blue"))
    paths = ["a/1.png", "./a/odd name.png", f"{top}a/1.png", "a/2.png", "../a/1.png", "/etc/passwd", "a"]
    data = b"".join(line(image=path) for path in paths)
    rows = read(place, "rows.jsonl", data, root="images.zip", columns=IMAGE)
    assert reasons(rows) == [
        None,
        None,
        None,
        "image-missing",
        "image-outside-root",
        "image-outside-root",
        "image-missing",
    ]
    assert list(rows[1].images) == [image("blue")]


def test_a_damaged_archive_costs_its_images_or_says_so(place):
    with zipfile.ZipFile(place / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", image() * 50)
    whole = bytearray((place / "images.zip").read_bytes())
    whole[60] ^= 0xFF
    (place / "bad.zip").write_bytes(whole)
    assert reasons(read(place, "rows.jsonl", line(image="a.png"), root="bad.zip", columns=IMAGE)) == [
        "image-unreadable"
    ]
    (place / "cut.zip").write_bytes(whole[:-30])
    with pytest.raises(UserError, match="not a readable zip archive"):
        read(place, "rows.jsonl", root="cut.zip", columns=IMAGE)


def test_a_hub_source_falls_back_to_its_other_ids(place):
    (place / "copy").mkdir()
    pq.write_table(pa.table({"question": ["q"], "answer": ["1"]}), place / "copy" / "train.parquet")
    (row,) = hub(place, fallbacks=("neither", "copy"))
    assert row.question == "q"
    with pytest.raises(UserError, match="hub cannot be opened"):
        hub(place, fallbacks=("neither",))


def test_a_shuffle_is_the_same_every_time_and_loses_nothing(place):
    data = b"".join(line(question=str(number)) for number in range(50))
    orders = [
        [row.question for row in read(place, "rows.jsonl", data, shuffle=size, seed=seed)]
        for size, seed in ((10, 0), (10, 0), (10, 1), (100, 0))
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert sorted(order, key=int) == [str(number) for number in range(50)]
    few = read(place, "rows.jsonl", shuffle=100, limit=5)
    assert [row.question for row in few] == orders[3][:5]
    # The name of a row is where it stands in the source, in whatever order it comes.
    assert all(row.source_row == str(int(row.question) + 1) for row in few)


def test_rows_by_name(place):
    data = b"".join(line(id=name) for name in "abcab") + b"never read: reading ends with the last name\n"
    rows = read(place, "rows.jsonl", data, ids=("c", "a"), columns=ColumnMap(id="id"))
    assert [row.source_row for row in rows] == ["a", "c"]
    with pytest.raises(UserError, match="no row is named z"):
        read(place, "rows.jsonl", ids=("a", "z"), columns=ColumnMap(id="id"))
    assert [row.source_row for row in read(place, "rows.jsonl", ids=("2",))] == ["2"]


def test_an_installed_package_adds_a_source(place):
    """A real entry point: metadata and a module in a folder on the path of a fresh interpreter."""
    (place / "other-1.dist-info").mkdir()
    (place / "other-1.dist-info" / "METADATA").write_text("Name: other\nVersion: 1\n")
    (place / "other-1.dist-info" / "entry_points.txt").write_text(
        "[curate.sources]\ncounting = other_source:Counting\n"
    )
    (place / "other_source.py").write_text(
        "from curate.sources.columns import problems\n"
        "class Counting:\n"
        "    def __init__(self, config, base): self.config = config\n"
        "    def rows(self):\n"
        "        records = ((n, {'question': f'{n}?', 'answer': n}) for n in range(self.config.args['upto']))\n"
        "        yield from problems(records, self.config, None)\n"
    )
    source = {"kind": "package", "name": "c", "adapter": "counting", "args": {"upto": 3}, "answer_type": "number"}
    (place / "r.yaml").write_text(json.dumps({"name": "r", "ingest": {"sources": [source]}}))
    code = "import sys; from curate.cli.app import main; sys.argv = ['curate', 'ingest', 'r.yaml', '-w', 'w']; main()"
    paths = os.pathsep.join([str(place), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=place, env=os.environ | {"PYTHONPATH": paths}
    )
    assert "3 rows in = 3 out" in done.stdout, done.stderr
    with pytest.raises(
        UserError, match=r"source\.adapter.*no source adapter .counting.; no installed package brings one"
    ):
        validate(PackageSource, source, "source")
    with pytest.raises(UserError, match="write kind: files"):
        validate(PackageSource, source | {"adapter": "files"}, "source")
