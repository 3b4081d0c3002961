"""CSV and TSV: what a proper writer wrote comes back, and a quote that means nothing swallows no row."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import RowError, UserError
from curate.sources.readers import delimited
from curate.sources.readers.inputs import Input


def read(data: bytes | str, usual=","):
    raw = data.encode() if isinstance(data, str) else data
    names, rows = delimited.rows(Input("t.csv", lambda: io.BytesIO(raw)), usual)
    return names, [record if isinstance(record, RowError) else list(record.values()) for _, record in rows]


def seen(data, usual=","):
    return [row.reason if isinstance(row, RowError) else row for row in read(data, usual)[1]]


cells = st.text(alphabet=st.characters(exclude_characters="\r\0", exclude_categories=("Cs",)), min_size=1, max_size=12)
quoting = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])


@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6), quoting, st.sampled_from(["\n", "\r\n"]))
def test_what_a_writer_of_csv_wrote_comes_back_or_is_told(rows, how, end):
    text = io.StringIO()
    writer = csv.writer(text, quoting=how, lineterminator=end)
    writer.writerows([("a", "b", "c"), *rows])
    found = read(text.getvalue())[1]
    assert len(found) == len(rows)
    for row, written in zip(found, rows, strict=True):
        assert (row.reason == "ambiguous-quotes") if isinstance(row, RowError) else (row == list(written))


@given(st.lists(st.tuples(st.text('ab" ,', max_size=6), st.text('c"', max_size=3)), min_size=1, max_size=8))
def test_lines_of_tsv_whose_quotes_mean_nothing_stay_rows(rows):
    lines = ["q\tanswer", *("\t".join(["x" + row[0], row[1]]) for row in rows), 'x"y\tz', '"never\tclosed', "p\tq"]
    found = read("\n".join(lines), "\t")[1]
    assert len(found) == len(rows) + 3
    assert found[-3:] == [['x"y', "z"], ['"never', "closed"], ["p", "q"]]


@given(st.lists(st.text('ab"', min_size=1, max_size=5), min_size=1, max_size=8))
def test_a_quote_at_the_beginning_of_a_line_swallows_no_other_line(texts):
    lines = ["q\tanswer", 'x"y\tz', *(f'"{text}\t{place}' for place, text in enumerate(texts))]
    found = read("\n".join(lines), "\t")[1]
    assert [row[1] for row in found] == ["z", *map(str, range(len(texts)))]


def test_quotes_inside_of_a_cell_and_round_a_part_of_it_are_characters():
    data = 'q,a\nA 3" nail?,1\n"Mars" is what?,2\n"Venus is what?,3\nEarth?,4\n"Io is what?,5\n'
    assert seen(data) == [['A 3" nail?', "1"], ['"Mars" is what?', "2"], ['"Venus is what?', "3"], ["Earth?", "4"],
                          ['"Io is what?', "5"]]  # fmt: skip


def test_what_can_be_read_in_two_ways_is_decided_by_the_file_or_told():
    doubt = '"f(x,y)\nfor x>0",7\n'
    assert seen("q,a\n" + doubt) == ["ambiguous-quotes"]
    proper = "q,a\n" + '"one, two",1\n"a ""b""",2\n"line\nline",3\n'
    assert seen(proper + doubt)[-1] == ["f(x,y)\nfor x>0", "7"]
    assert seen(proper + 'a 5" nail,4\n' + doubt)[-1] == "ambiguous-quotes"
    # A tabulator in a text is less likely than a quote.
    assert seen(doubt.join(["q\ta\n", ""]).replace(",", "\t"), "\t") == [['"f(x', "y)"], ['for x>0"', "7"]]


def test_quotes_that_are_escaped_by_a_backslash():
    assert seen('q,a\n"say \\"hi\\", now",1\n') == [['say "hi", now', "1"]]


def test_another_delimiter_is_taken_from_the_header():
    assert read('q;a\n"x; y";1,5\n') == (["q", "a"], [["x; y", "1,5"]])
    assert read("q\ta\nx, y\t1\n") == (["q", "a"], [["x, y", "1"]])


def test_a_column_that_is_there_twice_is_named():
    with pytest.raises(UserError, match='has the column "a" twice'):
        read("q,a, a\n1,2,3\n")
    # Empty names, as of an index, are nobody's.
    assert seen(",q,\n0,x,y\n") == [["y", "x"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_ends_of_lines_blank_lines_and_a_mark_of_the_encoding(end):
    data = b"\xef\xbb\xbf" + f"q,a{end}{end}x,1{end}y,{end}".encode()
    assert seen(data) == [["x", "1"], ["y", None]]


def test_a_cell_may_be_as_long_as_it_is():
    assert seen(f'q,a\n{"x" * 300_000},1\n"{"y," * 200_000}",2\n') == [["x" * 300_000, "1"], ["y," * 200_000, "2"]]


def test_rows_of_another_width_and_bytes_that_are_no_text_cost_only_themselves():
    assert seen(b"q,a\nx,1,2\n\xff,1\ny\nz,3\n") == ["malformed-line", "not-utf-8", "malformed-line", ["z", "3"]]
