"""Records of whole files: JSON in the shapes that rows are written in, packed files, columns that begin late."""

import bz2
import codecs
import gzip
import json
import lzma
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import UserError
from curate.recipe.source_sections import ColumnMap, FilesSource, HubSource
from curate.sources import columns, open_source
from curate.sources.base import BadRow
from curate.sources.files import read

ROWS = [{"question": "One?", "answer": "1"}, {"question": "Two?", "answer": "2"}]


def rows(place, name, data=None, **more):
    if data is not None:
        (place / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(open_source(FilesSource(kind="files", name="s", path=name, **more), place).rows())


def told(found):
    return [
        row.error.reason if isinstance(row, BadRow) else (row.source_row, row.question, row.answer) for row in found
    ]


TWO = [("1", "One?", "1"), ("2", "Two?", "2")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        json.dumps({"version": "1.0", "data": ROWS}),
        json.dumps({"info": {"by": "us"}, "skipped": [], "rows": ROWS}),
        json.dumps({"question": ["One?", "Two?"], "answer": ["1", "2"]}),
        json.dumps({"question": {"0": "One?", "1": "Two?"}, "answer": {"0": "1", "1": "2"}}),
        json.dumps({"columns": ["question", "answer"], "index": [0, 1], "data": [["One?", "1"], ["Two?", "2"]]}),
        "\n".join(map(json.dumps, ROWS)) + "\n\n",
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "\ufeff" + json.dumps(ROWS),
    ],
)
def test_the_shapes_of_json(tmp_path, text):
    assert told(rows(tmp_path, "a.json", text)) == TWO


@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_is_called_lines(tmp_path, indent):
    assert told(rows(tmp_path, "a.jsonl", json.dumps(ROWS, indent=indent))) == TWO
    pretty = "\n".join(json.dumps(row, indent=indent) for row in ROWS)
    assert told(rows(tmp_path, "a.jsonl", pretty)) == TWO


def test_objects_by_name_are_named_by_it(tmp_path):
    data = json.dumps({"x-7": ROWS[0], "9": ROWS[1]})
    assert told(rows(tmp_path, "a.json", data)) == [("x-7", "One?", "1"), ("9", "Two?", "2")]
    (row, _) = rows(tmp_path, "a.json", columns=ColumnMap(question="{key}: {question}"))
    assert row.question == "x-7: One?"
    (tmp_path / "x-7.png").write_bytes(b"7")
    (row, missing) = rows(tmp_path, "a.json", columns=ColumnMap(image="{key}.png"))
    assert list(row.images) == [b"7"]
    assert missing.error.reason == "image-missing"


def test_an_object_that_has_the_columns_is_a_row(tmp_path):
    whole = ROWS[0] | {"turns": [{"a": 1}, {"a": 2}]}
    assert told(rows(tmp_path, "a.json", json.dumps(whole))) == TWO[:1]


def test_one_of_several_tables_is_chosen(tmp_path):
    data = json.dumps({"train": ROWS[:1], "test": {"part": ROWS}, "dev": ROWS[:1]})
    with pytest.raises(UserError, match="set records to one of train, dev"):
        rows(tmp_path, "a.json", data)
    assert told(rows(tmp_path, "a.json", records="test.part")) == TWO
    with pytest.raises(UserError, match='has no "tset"'):
        rows(tmp_path, "a.json", records="tset")
    with pytest.raises(UserError, match="records has no effect"):
        rows(tmp_path, "a.jsonl", "{}", records="train")


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_json_that_is_cut_off_is_one_sentence(tmp_path, cut):
    with pytest.raises(UserError, match="not valid JSON"):
        rows(tmp_path, "a.json", json.dumps(ROWS, indent=1)[:-cut])


def test_a_last_line_that_is_torn_costs_itself(tmp_path):
    lines = "\r\n\r\n".join(map(json.dumps, ROWS)) + '\r\n{"question": "Th'
    assert [each if isinstance(each, str) else each[1] for each in told(rows(tmp_path, "a.jsonl", lines))] == [
        "One?", "Two?", "malformed-line",
    ]  # fmt: skip


def test_a_key_that_is_there_twice_is_named(tmp_path):
    twice = '{"question": "q", "answer": "1", "answer": "2"}'
    found = rows(tmp_path, "a.jsonl", twice + '\n{"question": "q", "answer": "1", "answer": "1"}\n')
    assert told(found) == ["column-twice", ("2", "q", "1")]
    assert '"answer"' in found[0].error.detail
    with pytest.raises(UserError, match='"answer" is there twice'):
        rows(tmp_path, "a.json", f"[{twice}]")


@pytest.mark.parametrize("late", [90, 250])
def test_columns_may_begin_late(tmp_path, late):
    lines = [json.dumps({"question": str(place), "answer": "1"} | ({"hint": "h"} if place >= late else {}))
             for place in range(late + 20)]  # fmt: skip
    found = rows(tmp_path, "a.jsonl", "\n".join(lines), columns=ColumnMap(question="{question}\n{hint}"))
    assert [row.question.endswith("h") for row in found] == [place >= late for place in range(late + 20)]
    with pytest.raises(UserError, match=r'no column "hnt".*did you mean "hint"'):
        rows(tmp_path, "a.jsonl", columns=ColumnMap(question="hnt"))
    assert "hint" in read(tmp_path / "a.jsonl", wanted=["hint"])[0]


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


TEXTS = {
    "a.jsonl": "\n".join(map(json.dumps, ROWS)),
    "a.json": json.dumps(ROWS),
    "a.csv": "question,answer\nOne?,1\nTwo?,2\n",
    "a.tsv": "question\tanswer\nOne?\t1\nTwo?\t2\n",
}


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files(tmp_path, ending):
    for name, text in TEXTS.items():
        assert told(rows(tmp_path, f"{name}.{ending}", PACKERS[ending](text.encode()))) == TWO
    with pytest.raises(UserError, match="cannot be unpacked"):
        rows(tmp_path, f"cut.csv.{ending}", PACKERS[ending](b"question,answer\n" * 999)[:-8])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_wide_encodings_are_named(tmp_path, encoding, name):
    wanted = encoding[:6].upper()
    with pytest.raises(UserError, match=f"is {wanted}, not UTF-8"):
        rows(tmp_path, name, "question,answer\nOne?,1\n".encode(encoding))
    assert codecs.lookup(encoding)


def test_what_was_fetched_in_place_of_the_data_is_named(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("a.csv", "a.jsonl", "a.json", "a.parquet"):
        with pytest.raises(UserError, match="Git LFS pointer"):
            rows(tmp_path, name, pointer)
    with pytest.raises(UserError, match="web page"):
        rows(tmp_path, "b.jsonl", "<!DOCTYPE html>\n<html></html>")


def test_columns_of_parquet_and_arrow_of_many_types(tmp_path):
    table = pa.table(
        {
            "question": pa.array(["a", "b"], pa.large_string()),
            "answer": pa.array([Decimal("1.50"), Decimal("2.00")], pa.decimal128(5, 2)),
            "c": pa.array([["x", "y"], None], pa.list_(pa.string())),
            "m": pa.array([{"d": date(2024, 2, 29)}, {"d": None}]),
            "t": pa.array([datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
            "k": pa.array(["u", "v"]).dictionary_encode(),
            "b": pa.array([b"bytes", None]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    map_ = ColumnMap(question="{question} {m.d} {t} {k} {b}", choices="c")
    for name in ("a.parquet", "a.arrow"):
        first, second = rows(tmp_path, name, columns=map_)
        assert (first.question, first.answer) == ("a 2024-02-29 2024-02-29T01:02:03+00:00 u bytes", "1.50")
        assert (first.choices, second.choices, second.question) == (("x", "y"), (), "b   v ")
    twice = pa.table([["q"], ["1"], ["2"]], names=["question", "answer", "answer"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(UserError, match='column "answer" twice'):
        rows(tmp_path, "b.parquet")


def mapped(record, **settings):
    (row,) = columns.rows(record, HubSource(kind="hub", name="h", dataset="d", **settings), 1, None)
    return row.error.reason if isinstance(row, BadRow) else row


def test_class_labels_are_names_and_their_numbers_stay_indices(tmp_path):
    import datasets

    label = datasets.ClassLabel(names=["oak", "elm", "ash"])
    features = {
        "question": datasets.Value("string"),
        "answer": label,
        "all": datasets.List(label),
        "m": {"kind": label},
    }
    cells = {"question": ["q"] * 2, "answer": [2, -1], "all": [[0, 1], []], "m": [{"kind": 1}, {"kind": None}]}
    made = datasets.Dataset.from_dict(cells, features=datasets.Features(features))
    (tmp_path / "hub").mkdir()
    made.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    map_ = ColumnMap(question="{question} {m.kind}", choices="all")
    source = HubSource(kind="hub", name="h", dataset="hub", columns=map_)
    for found in (list(open_source(source, tmp_path).rows()), rows(tmp_path, "hub/train.parquet", columns=map_)):
        assert [(row.question, row.answer, row.choices) for row in found] == [
            ("q elm", "ash", ("oak", "elm")), ("q ", None, ()),
        ]  # fmt: skip
    indexed = source.model_copy(update={"answer_form": "index", "columns": ColumnMap(choices=("question",) * 3)})
    assert [row.answer for row in open_source(indexed, tmp_path).rows() if not isinstance(row, BadRow)] == ["C", None]


@pytest.mark.parametrize(
    ("answer", "settings", "seen"),
    [
        ("3 + 4 = 7\n#### 7", {"answer_behind": "####"}, "7"),
        ("#### 1\n#### 7 apples \nbye", {"answer_behind": "####"}, "7 apples"),
        ("so it is <b>7</b>.", {"answer_behind": "<b>(.*?)</b>"}, "7"),
        ("seven", {"answer_behind": "####"}, "no-answer-behind"),
        ("####  \n7", {"answer_behind": "####"}, "7"),
        ("####", {"answer_behind": "####"}, "no-answer-behind"),
        ("We add. So $3 + 4 = \\boxed{7}$ in all.", {"answer_form": "solution"}, "7"),
        ("We add and stop.", {"answer_form": "solution"}, "no-answer-behind"),
        (["7", "seven"], {}, "unusable-answers"),
        (['7'], {}, "7"),
        (True, {}, "True"),
        (b"7", {}, "7"),
        ('["7", "seven"', {"answer_form": "accepted"}, "unusable-answers"),
        ("(0, 1]", {"answer_form": "accepted"}, "(0, 1]"),
        ("1", {"answer_form": "index", "answer_from": 1}, "A"),
        (3.0, {"answer_form": "index", "answer_from": 1}, "C"),
        (0, {"answer_form": "index", "answer_from": 1}, "answer-not-in-choices"),
        (True, {"answer_form": "index"}, "answer-not-in-choices"),
    ],
)  # fmt: skip
def test_answers_behind_a_pattern_as_lists_and_by_index(answer, settings, seen):
    record = {"question": "q", "answer": answer, "c": ["x", "y", "z"]}
    row = mapped(record, columns=ColumnMap(choices="c"), **settings)
    assert (row if isinstance(row, str) else row.answer) == seen


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_behind": "(a)(b)"}, "2 groups"),
        ({"answer_behind": "("}, "not a regular expression"),
        ({"answer_behind": "#", "answer_form": "accepted"}, "answer_form: text"),
        ({"answer_from": 1}, "answer_form: index"),
    ],
)
def test_settings_of_answers_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mapped({}, **settings)


def test_choices_keep_their_letters():
    lettered = {"question": "q", "answer": "1", "c": {"B": "y", "A": "x", "C": None}}
    assert mapped(lettered, columns=ColumnMap(choices="c")).choices == ("x", "y")
    by_column = ColumnMap(choices=("a", "b", "c"))
    assert mapped({"question": "q", "answer": "1", "a": "x", "b": "y"}, columns=by_column).choices == ("x", "y")
    # A choice that is missing in the middle would give the others another letter.
    assert mapped({"question": "q", "answer": "1", "b": "y"}, columns=by_column) == "unusable-choices"
    listed = {"question": "q", "answer": "1", "c": ["(A) 3", "(B) 4"]}
    assert mapped(listed, columns=ColumnMap(choices="c")).choices == ("3", "4")


def test_references_follow_images_where_columns_are_empty():
    record = {
        "question": "Is <image 1> <image 3>?",
        "answer": "1",
        "i1": b"a",
        "i2": None,
        "i3": b"c",
        "c": ["<image 3>", "no"],
    }
    row = mapped(record, columns=ColumnMap(image=("i1", "i2", "i3"), choices="c"))
    assert (row.question, row.choices, list(row.images)) == (
        "Is <image 1> <image 2>?",
        ("<image 2>", "no"),
        [b"a", b"c"],
    )
