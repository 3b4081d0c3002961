"""Adapters: what each kind of file can hold, and that no row of it can end a run."""

import io
import json
import os
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.config import ColumnMap, FilesSource, HubSource
from curate.errors import UserError
from curate.sources import columns, open_source
from curate.sources.base import BadRow, SourceRow


def picture(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "one.png").write_bytes(picture())
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
    row = columns.row({"question": "q", "answer": "1", "c": value}, ColumnMap(choices="c"), 1, None)
    assert isinstance(row, SourceRow)
    assert row.choices == seen


@pytest.mark.parametrize("value", ["a, b", "5", "[" * 5000, "__import__('os').getcwd()", [["a"], {"b": 1}]])
def test_choices_that_are_none(value):
    row = columns.row({"question": "q", "answer": "1", "c": value}, ColumnMap(choices="c"), 1, None)
    assert isinstance(row, BadRow)
    assert row.error.reason in ("unusable-choices", "unusable-value")


@pytest.mark.parametrize(
    ("value", "seen"),
    [(3, "3"), (3.0, "3"), (0.1, "0.1"), (float("nan"), None), (True, "True"), (["7"], "7"), (Decimal("1.50"), "1.50")],
)
def test_answers_of_any_kind_are_texts(value, seen):
    assert columns.row({"question": "q", "answer": value}, ColumnMap(), 1, None).answer == seen


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.binary(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
def test_a_cell_of_any_kind_gives_a_row_or_a_bad_row(value):
    record = {"question": value, "answer": value, "c": value, "i": value, "id": value, "d": value}
    mapped = ColumnMap(id="id", choices="c", image="i", domain="d")
    row = columns.row(record, mapped, 1, None)
    assert row.source_row.encode()
    if isinstance(row, SourceRow):
        assert all(isinstance(data, bytes) for data in row.images)


def test_pictures_by_path_bytes_struct_and_list(place):
    data = picture("blue")
    root = place
    for value, seen in [
        ("one.png", [picture()]),
        (data, [data]),
        ({"bytes": data, "path": "gone.png"}, [data]),
        ({"bytes": None, "path": "one.png"}, [picture()]),
        (["one.png", {"bytes": data}], [picture(), data]),
        (None, []),
        (["one.png", None], [picture()]),
    ]:
        row = columns.row({"question": "q", "answer": "1", "image": value}, IMAGE, 1, root)
        assert list(row.images) == seen


def test_no_path_leads_out_of_the_folder_or_to_what_is_no_file(place):
    (place / "images").mkdir()
    (place / "images" / "in.png").write_bytes(picture())
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
    wide = reasons(read(place, "wide.jsonl", (text * 3).encode("utf-16")))
    assert wide
    assert set(wide) <= {"not-utf-8", "malformed-line"}
    assert reasons(read(place, "mark.jsonl", (text * 2).encode("utf-8-sig"))) == [None, None]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes_are_json_lines_with_rejects(tmp_path_factory, lines):
    place = tmp_path_factory.mktemp("bytes")
    rows = read(place, "rows.jsonl", line() + b"\n".join(lines))
    assert rows[0].question == "q"
    assert len({row.source_row for row in rows}) == len(rows)


def test_csv_cells_too_long_unclosed_quotes_and_line_breaks(place):
    data = b'question,answer\n"two\nlines",1\n' + b"x" * 200_000 + b',2\nfine,3\n\n"never closed,4\n'
    rows = read(place, "rows.csv", data)
    assert reasons(rows) == [None, "malformed-line", None, "malformed-line"]
    assert [row.question for row in rows if isinstance(row, SourceRow)] == ["two\nlines", "fine"]
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
    with pytest.raises(UserError, match="no image folder at nowhere"):
        read(place, "rows.jsonl", line(), root="nowhere")


def hub(place, **more):
    return list(open_source(HubSource(kind="hub", name="h", dataset="hub", **more), place).rows())


def test_a_folder_of_pictures_loads_through_datasets_byte_for_byte(place):
    (place / "hub" / "train").mkdir(parents=True)
    (place / "hub" / "train" / "a.png").write_bytes(picture("green"))
    about = {"file_name": "a.png", "question": "Colour?", "answer": "green"}
    (place / "hub" / "train" / "metadata.jsonl").write_text(json.dumps(about) + "\n")
    (row,) = hub(place, columns=IMAGE)
    assert (row.question, row.answer, list(row.images)) == ("Colour?", "green", [picture("green")])


def test_lists_of_pictures_load_through_datasets_byte_for_byte(place):
    import datasets

    (place / "hub").mkdir()
    data = [picture("green"), picture("blue")]
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
    (place / "hub" / "rows.jsonl").write_bytes(line() + b"{broken\n")
    with pytest.raises(UserError, match=r"stopped in the middle|cannot be opened"):
        hub(place)
