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
        found.bring_near({key for key, _ in chunk})
        for key, value in chunk:
            assert found.get(key) == expected.get(key)
            assert found.setdefault(key, value) == expected.setdefault(key, value)
        assert len(found) == len(expected)
    found.bring_near(expected)
    assert {key: found.get(key) for key in expected} == expected


def test_a_key_that_was_not_brought_near_is_an_error():
    found = IdMap()
    found.add(["a"])
    with pytest.raises(KeyError):
        found.get("b")


def test_an_entry_takes_few_bytes():
    found = IdMap()
    tracemalloc.start()
    for start in range(0, 100_000, 10_000):
        found.add([str(number) for number in range(start, start + 10_000)], start)
    found.bring_near(["5"])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 100_000
    assert held < 30 * 100_000
    assert found.get("5") == 0
