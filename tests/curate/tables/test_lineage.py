"""Lineage: another setting never mixes with old rows, and the accounts add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import UserError
from curate.tables import catalog, lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import STEP_SCORES
from curate.tables.store import Store


@pytest.fixture
def partition(tmp_path):
    return Store.open(tmp_path / "w").partition(STEP_SCORES, "seed-0")


def test_the_same_settings_pass_and_others_are_refused_by_name(partition):
    settings = {"sampling": {"temperature": 1.0, "top_p": 1.0}, "model": "m"}
    assert lineage.guard(partition, settings, "redo") is None
    lineage.write(partition, "score", settings, {})
    assert lineage.guard(partition, dict(reversed(settings.items())), "redo")["complete"] is False
    with pytest.raises(UserError) as error:
        lineage.guard(partition, {"sampling": {"temperature": 0.5, "top_p": 1.0}, "model": "m", "new": 1}, "redo it")
    said = str(error.value)
    assert "sampling.temperature: 1.0 -> 0.5" in said
    assert "new: None -> 1" in said
    assert "top_p" not in said
    assert "`redo it`" in said


@given(
    st.integers(0, 50),
    st.integers(0, 50),
    st.dictionaries(st.text(min_size=1), st.integers(1, 9), max_size=3),
    st.dictionaries(st.text(min_size=1), st.integers(1, 9), max_size=3),
)
def test_a_ledger_adds_up_or_is_a_bug(out, duplicate, rejected, failed):
    total = out + duplicate + sum(rejected.values()) + sum(failed.values())
    Ledger("rows", total, out, duplicate, rejected, failed).check("s")
    with pytest.raises(AssertionError, match="does not add up"):
        Ledger("rows", total + 1, out, duplicate, rejected, failed).check("s")


def test_the_catalog_shows_the_ledger_and_can_be_deleted(partition, tmp_path):
    book = Ledger("examples", 5, 3, 1, {"too-long": 1})
    lineage.write(partition, "score", {}, {}, book)
    workspace = Store.open(tmp_path / "w")
    row = catalog.query(workspace, "SELECT * FROM ledger").to_dicts()[0]
    assert (row["taken"], row["out"], row["duplicate"], row["rejected"]) == (5, 3, 1, 1)
    assert row["reasons"] == "too-long 1"
    path = catalog.write(workspace)
    path.unlink()
    assert catalog.query(workspace, "SELECT count(*) AS n FROM step_scores").item() == 0
    catalog.write(workspace)
    assert path.exists()


def test_readers_do_not_wait_for_a_writer_of_the_catalog(tmp_path):
    import duckdb

    workspace = Store.open(tmp_path / "w")
    path = catalog.write(workspace)
    with duckdb.connect(str(path)):
        assert catalog.query(workspace, "SELECT 1 AS one").item() == 1
