"""A column of the report is one entry, which makes it appear in every form that it names."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import ExitStack
from dataclasses import fields, replace

import pytest
from installed_package import installed_package
from report_testbed import DOMAINS, add_run, add_source
from rich.console import Console

from curate.errors import UserError
from curate.tables.store import Store
from prm.render import difference, markdown, page, table, terminal
from prm.reporting import build, columns, compare
from prm.reporting.report_column import DomainRow, ReportColumn, ShownAs
from prm.reporting.stats import DomainFacts

# What docs and CONTRIBUTING show: a module of any package, named by an entry point `prm.report_columns`.
MODULE = '''
from prm.reporting.formats import percent
from prm.reporting.report_column import DomainRow, ReportColumn, ShownAs


def rejected_share(row: DomainRow) -> float | None:
    """In [0, 1]; None where nothing came in."""
    rows = row.facts.problems + row.facts.rejects
    return row.facts.rejects / rows if rows else None


REJECTED_SHARE = ReportColumn(
    "rejected_share",
    "share of a domain's rows that ingest rejected, in [0, 1]",
    rejected_share,
    percent,
    terminal=ShownAs("Data and training", heading="rejected", key="share of the rows that came in"),
    markdown=ShownAs(),
    page=ShownAs("data"),
    compared=True,
    told=True,
)
'''


@pytest.fixture
def install(tmp_path):
    """Installs a package: its module's text, what its entry point names there, and the column's name."""
    with ExitStack() as held:
        yield lambda text, attribute, name="rejected_share": held.enter_context(
            installed_package(
                tmp_path / "site",
                {"other_columns.py": text},
                {"prm.report_columns": {name: f"other_columns:{attribute}"}},
            )
        )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    made = []
    for name, more in (("a", 1), ("b", 0)):
        store = Store.open(tmp_path_factory.mktemp("columns") / name)
        for count, domain in ((3, "bars_read"), (5, "bars_sum")):
            add_source(store, domain, domain, "train", count + more, DOMAINS[domain][1], DOMAINS[domain][2])
        add_run(store, "seed-0", 0, False, {"bars_read": 1.2, "bars_sum": 0.8}, 2)
        made.append(store)
    return made


def printed(shown):
    console = Console(file=io.StringIO(), width=100)
    console.print(shown)
    return console.file.getvalue()


def page_cells(html):
    """The page's table of domains: by row, heading and cell in order."""
    body = re.search(r'<table class="wide">.*?</table>', html, re.DOTALL)[0]
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    ]
    return [[" ".join(re.sub(r"<[^>]*>", "", cell).split()) for cell in row] for row in rows]


def test_one_entry_makes_a_column_in_every_form_and_in_the_difference(stores, install):
    install(MODULE, "REJECTED_SHARE")
    a, b = (build.build(store) for store in stores)
    known = [row.facts.rejects / (row.facts.rejects + row.facts.problems) for row in a.domains]
    shown = [f"{100 * value:.0f} %" for value in known]
    assert len(set(shown)) > 1

    assert [float(row["rejected_share"]) for row in csv.DictReader(io.StringIO(table.render(a)))] == known
    assert [row["rejected_share"] for row in json.loads(json.dumps(a.to_json()))["domains"]] == known
    lines = [line for line in markdown.render(a).splitlines() if line.startswith("|")]
    assert [lines[place].split(" | ")[-1].removesuffix(" |") for place in (0, 2, 3)] == ["rejected share", *shown]
    text = printed(terminal.render(a))
    assert [
        line.split("  ")[-1].strip() for line in text.splitlines() if line.startswith("bars") and "→" in line
    ] == shown
    assert "rejected: share of the rows that came in" in " ".join(text.split())
    _, heads, *rows = page_cells(page.render(a))
    place = heads.index("rejected share")
    assert [row[place] for row in rows] == shown
    assert heads.index("contaminated") == place - 1
    assert "<dt>Rejected share</dt>" in page.render(a)

    found = compare.compare(a, b)
    for row, change in zip(csv.DictReader(io.StringIO(table.render_difference(found))), found.domains, strict=True):
        sides = [one.facts.rejects / (one.facts.rejects + one.facts.problems) for one in (change.a, change.b)]
        assert [float(row[f"rejected_share_{side}"]) for side in "ab"] == sides
        told = f"rejected share {100 * sides[1]:.0f} % → {100 * sides[0]:.0f} %"
        assert told in difference.counts(change)
        for form in (difference.markdown(found), page.render_difference(found), printed(difference.terminal(found))):
            assert told in " ".join(form.split())
    assert found.to_json()["domains"][0]["a"]["rejected_share"] in known


def test_a_column_is_only_where_its_entry_names_a_form(stores, install, monkeypatch):
    (everywhere,) = (column for column in columns.COLUMNS if column.name == "accuracy")
    quiet = replace(everywhere, name="quiet", heading="quiet", json=False, csv=False, compared=False)
    built, own = build.build(stores[0]), columns.COLUMNS
    for form, kept in (("terminal", "markdown"), ("markdown", "page"), ("page", "terminal")):
        silent = replace(quiet, **dict.fromkeys({"terminal", "markdown", "page"} - {form, kept}))
        monkeypatch.setattr(columns, "COLUMNS", (*own, silent))
        texts = {
            "terminal": printed(terminal.render(built)),
            "markdown": markdown.render(built),
            "page": " ".join(page_cells(page.render(built))[1]),
        }
        assert {name for name, text in texts.items() if "quiet" in text} == {form, kept}
        assert "quiet" not in table.render(built) + json.dumps(built.to_json())


def test_every_field_of_a_row_has_a_column():
    keys = {column.key for column in columns.COLUMNS if column.key}
    record = {field.name for field in fields(DomainRow)} - {"facts"}
    assert keys == record | {f"facts.{field.name}" for field in fields(DomainFacts)}


def test_columns_that_do_not_fit_go_on_in_a_further_table(stores):
    rows = build.build(stores[0]).domains
    wide = [
        ReportColumn(f"figure_{place}", "a figure", lambda row: 1234567890.125, terminal=ShownAs())
        for place in range(12)
    ]
    lines = [
        line for each in terminal.named_tables("Wide", wide, [(row.domain, row) for row in rows])
        for line in printed(each).splitlines()
    ]  # fmt: skip
    assert sum(line.count("1234567890.12") for line in lines) == 12 * len(rows)
    assert max(map(len, (line.rstrip() for line in lines))) <= 100
    assert "Wide, continued" in " ".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OTHER = 3", r"other_columns:OTHER is not a prm\.reporting\.report_column\.ReportColumn"),
        (
            MODULE.replace('"rejected_share"', '"accuracy"') + "\nOTHER = REJECTED_SHARE",
            'which calls itself "accuracy"',
        ),
        (MODULE.replace("compared=", 'json="facts", compared=') + "\nOTHER = REJECTED_SHARE", r"taken \(facts\)"),
    ],
)
def test_a_package_with_a_broken_column_is_named(install, text, said):
    install(text, "OTHER")
    with pytest.raises(UserError, match=said):
        columns.report_columns()


def test_a_column_of_ours_stays_ours(install):
    install(MODULE.replace('"rejected_share"', '"accuracy"'), "REJECTED_SHARE", "accuracy")
    assert columns.report_columns() == columns.COLUMNS


@pytest.mark.parametrize(("name", "text"), [("Rejected share", "x"), ("rejected_share", ""), ("_x", "x")])
def test_a_column_has_a_name_for_programs_and_help_for_people(name, text):
    with pytest.raises(ValueError, match="report column"):
        ReportColumn(name, text, lambda row: None)


def test_a_text_of_a_column_is_harmless_in_every_form(stores, monkeypatch):
    odd = ReportColumn(
        "odd", "an odd text", lambda row: "<b>|\x1b[31m=1", str, left=True,
        terminal=ShownAs("Odd"), markdown=ShownAs(), page=ShownAs("odd"),
    )  # fmt: skip
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, odd))
    built = build.build(stores[0])
    forms = [printed(terminal.render(built)), markdown.render(built), page.render(built)]
    assert not any("\x1b[31m" in text for text in forms)
    assert "<b>|" not in forms[1] and "&lt;b&gt;\\|" in forms[1]
    assert "<b>|" not in forms[2] and "&lt;b&gt;|" in forms[2]
    order = [line for line in forms[0].splitlines() if line.strip() in ("Dataset quality", "Data and training", "Odd")]
    assert [line.strip() for line in order] == ["Dataset quality", "Data and training", "Odd"]
