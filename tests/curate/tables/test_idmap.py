"""A map that answers as a dictionary does, in a few bytes an entry."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.tables.id_map import IdMap

CHUNKS = st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9)), max_size=12), max_size=12)


@given(CHUNKS)
def test_it_answers_as_a_dictionary_does(chunks):
    found, expected = IdMap(), {}
    for chunk in chunks:
        near = found.near({key for key, _ in chunk})
        for key, value in chunk:
            assert near.get(key) == expected.get(key)
            assert near.setdefault(key, value) == expected.setdefault(key, value)
        assert len(found) == len(expected)
    near = found.near(expected)
    assert {key: near.get(key) for key in expected} == expected


def test_what_is_added_after_a_later_chunk_was_looked_up_is_kept():
    found = IdMap()
    first = found.near(["a"])
    found.near(["b"]).setdefault("b", 2)
    first.setdefault("a", 1)
    near = found.near(["a", "b"])
    assert (near.get("a"), near.get("b")) == (1, 2)


def test_a_key_of_another_chunk_is_an_error():
    found = IdMap()
    found.add(["a"])
    with pytest.raises(KeyError):
        found.near(["a"]).get("b")


def test_an_entry_takes_few_bytes():
    found = IdMap()
    tracemalloc.start()
    for start in range(0, 100_000, 10_000):
        found.add([str(number) for number in range(start, start + 10_000)], start)
    near = found.near(["5"])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 100_000
    assert held < 30 * 100_000
    assert near.get("5") == 0
