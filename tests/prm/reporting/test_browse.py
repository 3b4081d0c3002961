"""The page's browser of chains: the rows of the tables, by keyboard, from disk and served, whatever texts it shows."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from page_bed import Opener, needs_browser, violations
from report_testbed import (
    NASTY,
    RIGHT_TO_LEFT,
    VERY_LONG,
    add_run,
    add_source,
    label_rows,
    make,
    rollout_row,
    score_row,
)

from curate.errors import UserError
from curate.tables.schema import COMPLETIONS, IMAGES, PROBLEMS, ROLLOUTS, STEP_LABELS, STEP_SCORES
from curate.tables.store import Store
from prm.render import browse, page, write
from prm.reporting import build
from prm.sections import ReportConfig
from prm.serving import page_server
from tests.beds.rows import commit

EVIL = "a</script><script>window.pwned = 1</script>\x00\u2028\u202e=cmd|\"'`${window.pwned = 1}`"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The testbed, with scores of train chains, an undecided one, one without labels, and one whose texts are evil."""
    workspace = make(tmp_path_factory.mktemp("browse") / "w", train=5, test=2)
    add_source(workspace, "evil", EVIL, "train", 2, 0.5, None, texts=(EVIL, NASTY, RIGHT_TO_LEFT, VERY_LONG))
    train = [row for row in workspace.read(ROLLOUTS).to_pylist() if row["role"] == "train"]
    rng = random.Random(1)
    scores = [score_row("seed-0", row, step, rng.random()) for row in train for step in range(4)]
    commit(workspace.partition(STEP_SCORES, "train"), scores)
    problem = train[0]["problem_id"]
    odd = [rollout_row(problem, "bars_read", "train", number, "3", None, rng) for number in (70, 71)]
    commit(workspace.partition(ROLLOUTS, "odd"), odd)
    undefined = [
        row | {"value": None, "k": 0, "m": 0, "standard_error": None}
        for row in label_rows(odd[0] | {"outcome": False}, rng)
    ]
    commit(workspace.partition(STEP_LABELS, "odd"), undefined)
    return workspace


@pytest.fixture(scope="module")
def chains(workspace):
    return browse.beside(workspace, ReportConfig(browse=5000))


@pytest.fixture(scope="module")
def built(workspace):
    return build.build(workspace)


@pytest.fixture(scope="module")
def path(built, chains, tmp_path_factory):
    """The page without its charts, which take most of the time that a page takes to open."""
    nothing = {"weights": (), "running": (), "losses": (), "meta_loss": None, "token_usage": (), "selection": None}
    rows = tuple(replace(row, weight=None, interval=None, band=None) for row in built.domains)
    plain = replace(built, domains=rows, final={}, **nothing)
    return write.write_report(plain, tmp_path_factory.mktemp("out"), chains=chains)["html"]


@pytest.fixture
def view(browser):
    """Opens a page from disk; nothing outside its folder may be asked for, nothing may be thrown."""
    opener = Opener(browser, lambda url: url.startswith(("data:", *places)))
    places = []

    def go(path, *words, **more):
        places.append(f"{path.parent.as_uri()}/report")
        tab = opener(path.as_uri(), *words, **more)
        tab.wait_for_selector("body[data-browse=ready]")
        return tab

    yield go
    opener.close()
    assert opener.trouble == []


def tables(workspace):
    """Rollout -> what filters look at, straight from the tables."""
    problems = {row["problem_id"]: row for row in workspace.read(PROBLEMS).to_pylist()}
    values = {}
    for row in workspace.read(STEP_LABELS).to_pylist():
        values.setdefault(row["rollout_id"], {})[row["step_index"]] = row["value"]
    found = {}
    for row in workspace.read(ROLLOUTS).to_pylist():
        labels = [value for _, value in sorted(values.get(row["rollout_id"], {}).items()) if value is not None]
        falls = [round(before - after, 6) for before, after in pairwise(labels)]
        problem = problems[row["problem_id"]]
        found[row["rollout_id"]] = row | {
            "drop": max(0.0, *falls) if falls else None,
            "texts": [
                problem["question"],
                problem["answer"] or "",
                row["answer"] or "",
                row["rollout_id"],
                *row["steps"],
            ],
        }
    return found


def listed(tab):
    """Ids of all pages of the list, in order."""
    found = []
    while True:
        found += tab.locator("#browse-list details").evaluate_all("all => all.map((one) => one.dataset.id)")
        after = tab.locator("#browse-after")
        if not after.is_visible() or after.is_disabled():
            return found
        after.click()


def settled(tab, act):
    """Does something and waits until the list was made anew."""
    tab.evaluate("""() => { window.made = new Promise((done) => new MutationObserver((_, self) => {
        self.disconnect(); done(); }).observe(document.getElementById("browse-list"), { childList: true })); }""")
    act()
    tab.evaluate("window.made")


def opened(tab, identity):
    """The chain's whole text, after it was opened."""
    settled(tab, lambda: tab.locator("#browse-text").fill(identity))
    chain = tab.locator(f'#browse-list details[data-id="{identity}"]')
    chain.locator("summary").click()
    chain.locator("table.steps").wait_for()
    return chain


FILTERS = [
    ({}, lambda row: True),
    ({"domain": "bars_read"}, lambda row: row["domain"] == "bars_read"),
    ({"role": "test", "outcome": "wrong"}, lambda row: row["role"] == "test" and row["outcome"] is False),
    ({"outcome": "undecided"}, lambda row: row["outcome"] is None),
    ({"drop": "0.5"}, lambda row: row["drop"] is not None and row["drop"] >= 0.5),
    ({"drop": "0", "role": "train"}, lambda row: row["drop"] is not None and row["role"] == "train"),
    ({"text": "RED bar reaches 1"}, lambda row: any("red bar reaches 1" in text.lower() for text in row["texts"])),
    ({"text": "}}"}, lambda row: any("}}" in text for text in row["texts"])),
    ({"text": "no such words"}, lambda row: False),
    (
        {"domain": "dots_more", "outcome": "wrong", "drop": "0.25", "text": "step 2"},
        lambda row: row["domain"] == "dots_more" and row["outcome"] is False and (row["drop"] or 0) >= 0.25,
    ),
]


@needs_browser
def test_filters_give_the_rows_of_the_tables(view, path, workspace):
    tab, rows = view(path), tables(workspace)
    for settings, keep in FILTERS:
        settled(tab, lambda: tab.get_by_role("button", name="Clear").click())
        for key, value in settings.items():
            field = tab.locator(f"#browse-{key}")
            if key in ("drop", "text"):
                settled(tab, partial(field.fill, value))
            else:
                settled(tab, partial(field.select_option, label=value))
        wanted = {identity for identity, row in rows.items() if keep(row)}
        found = listed(tab)
        assert len(found) == len(wanted), settings
        assert set(found) == wanted, settings
        said = f"{len(wanted)} of {len(rows)} chains" if len(wanted) < len(rows) else f"{len(rows)} chains"
        assert tab.locator("#browse-status").inner_text() == said


@needs_browser
def test_order_is_by_drop_or_by_distance(view, path, workspace):
    tab, rows = view(path), tables(workspace)
    settled(tab, lambda: tab.locator("#browse-order").select_option("drop"))
    drops = [rows[identity]["drop"] for identity in listed(tab)]
    known = [drop for drop in drops if drop is not None]
    assert known == sorted(known, reverse=True)
    assert drops[: len(known)] == known
    settled(tab, lambda: tab.locator("#browse-domain").select_option(label="dots_more"))
    settled(tab, lambda: tab.locator("#browse-order").select_option("gap"))
    assert set(listed(tab)) == {identity for identity, row in rows.items() if row["domain"] == "dots_more"}


@needs_browser
def test_a_chain_is_what_the_tables_say(view, path, workspace):
    rows, tab = tables(workspace), view(path)
    scores = {}
    for row in workspace.read(STEP_SCORES).to_pylist():
        scores.setdefault(row["rollout_id"], {})[row["step_index"], row["run"]] = row["score"]
    labels = {(row["rollout_id"], row["step_index"]): row for row in workspace.read(STEP_LABELS).to_pylist()}
    for role, runs in (("train", ["seed-0"]), ("test", ["seed-0", "seed-1", "seed-2"])):
        identity = next(key for key, row in rows.items() if row["role"] == role and row["domain"] == "dial_read")
        chain = opened(tab, identity)
        heads = [" ".join(text.split()) for text in chain.locator("thead th").all_inner_texts()]
        assert heads == ["step", "label", *(f"score {run}" for run in runs)]
        for place, text in enumerate(rows[identity]["steps"]):
            cells = chain.locator("tbody tr").nth(place).locator("td").all_inner_texts()
            assert cells[0].strip() == text.strip()
            assert cells[2:] == [f"{scores[identity][place, run]:.2f}" for run in runs]
            label = labels.get((identity, place))
            if label is None:
                assert cells[1] == "–"
            else:
                counts = f"{label['k']}/{label['m']} ± {label['standard_error']:.2f}" if label["m"] else "outcome"
                assert cells[1].split("\n") == [f"{label['value']:.2f}", counts]
        assert chain.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 96


@needs_browser
def test_completions_come_on_demand(view, path, workspace):
    tab = view(path)
    row = next(
        row for row in workspace.read(ROLLOUTS).to_pylist() if (row["domain"], row["role"]) == ("bars_sum", "train")
    )
    chain = opened(tab, row["rollout_id"])
    assert chain.locator(".completions").count() == 0
    button = chain.get_by_role("button", name="Show completions")
    button.click()
    wanted = [each for each in workspace.read(COMPLETIONS).to_pylist() if each["rollout_id"] == row["rollout_id"]]
    chain.locator(".completions").first.wait_for()
    assert chain.locator(".completions").count() == 3
    assert sorted(chain.locator(".completions .long").all_inner_texts()) == sorted(each["text"] for each in wanted)
    assert chain.locator(".completions .right").count() == sum(each["outcome"] for each in wanted)
    chain.get_by_role("button", name="Hide completions").click()
    assert chain.locator(".completions").count() == 0


@needs_browser
def test_axe_finds_nothing_in_either_theme_and_nothing_overflows(view, built, chains, workspace, tmp_path):
    tab = view(write.write_report(built, tmp_path, chains=chains)["html"])
    rows = workspace.read(ROLLOUTS).to_pylist()
    chain = opened(tab, next(row["rollout_id"] for row in rows if row["domain"] == EVIL))
    chain.get_by_role("button", name="Show completions").click()
    chain.locator(".completions").first.wait_for()
    assert violations(tab) == []
    tab.emulate_media(color_scheme="dark")
    tab.set_viewport_size({"width": 390, "height": 900})
    # The page hears of the new width in a turn of its own.
    tab.wait_for_timeout(200)
    assert violations(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@needs_browser
def test_the_keyboard_alone_filters_opens_and_reads(view, path, workspace):
    tab = view(path)

    def focused(script="document.activeElement.id"):
        return tab.evaluate(script)

    tab.locator("nav a[href='#chains']").focus()
    tab.keyboard.press("Enter")
    for identity in ("browse-domain", "browse-role", "browse-outcome", "browse-drop", "browse-text", "browse-order"):
        tab.keyboard.press("Tab")
        assert focused() == identity
        if identity == "browse-outcome":
            settled(tab, lambda: tab.keyboard.press("w"))
            assert tab.locator("#browse-outcome").input_value() == "wrong"
        if identity == "browse-text":
            settled(tab, lambda: tab.keyboard.type("red bar"))
    rows = tables(workspace)
    wanted = [r for r in rows.values() if r["outcome"] is False and any("red bar" in t.lower() for t in r["texts"])]
    assert tab.locator("#browse-status").inner_text() == f"{len(wanted)} of {len(rows)} chains"
    # The button that clears, then the first chain.
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert focused("document.activeElement.tagName") == "SUMMARY"
    tab.keyboard.press("Enter")
    tab.locator("#browse-list details[open] table.steps").wait_for()
    for _ in range(3):
        tab.keyboard.press("Tab")
        if focused("document.activeElement.getAttribute('role')") == "region":
            break
    assert focused("document.activeElement.getAttribute('aria-label')").startswith("Steps of rollout")
    assert "Step 1" in focused("document.activeElement.innerText")


@needs_browser
def test_nasty_texts_are_only_text(view, path, workspace):
    tab = view(path)
    evil = [row for row in workspace.read(ROLLOUTS).to_pylist() if row["domain"] == EVIL]
    assert len(evil) == 4
    shown = ""
    for row in (evil[0], evil[-1]):
        chain = opened(tab, row["rollout_id"])
        chain.get_by_role("button", name="Show completions").click()
        chain.locator(".completions").first.wait_for()
        shown += chain.inner_text()
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("#browse img[src='x']").count() == 0
    assert "</script><script>window.pwned = 1</script>\ufffd" in shown
    assert "\x00" not in shown
    assert NASTY in shown
    # An override stays in the text that sets it: each stands in an element that isolates directions.
    bidi = tab.locator("#browse-list .question").first.evaluate("one => getComputedStyle(one).unicodeBidi")
    assert bidi == "isolate"
    for made in (path.parent / "report-data").glob("*.js"):
        text = made.read_text()
        assert text.isascii() and "<" not in text and text.count("\n") == 1
    markdown, table = path.with_suffix(".md").read_text(), path.with_suffix(".csv").read_text()
    assert "<script" not in markdown
    for text in (markdown, table, path.read_text()):
        assert "\x00" not in text


@needs_browser
def test_without_its_files_the_page_shows_what_it_holds(browser, path, tmp_path):
    alone = tmp_path / "report.html"
    shutil.copy(path, alone)
    # A folder of another report beside it is no better than none.
    (tmp_path / "report-data").mkdir()
    other = (path.parent / "report-data" / "index.js").read_text()
    stamp = other.split('"')[3]
    (tmp_path / "report-data" / "index.js").write_text(other.replace(stamp, "0" * 32, 1))
    for made in ("stale", "gone"):
        if made == "gone":
            shutil.rmtree(tmp_path / "report-data")
        opener = Opener(browser, lambda url: True)
        tab = opener(alone.as_uri())
        tab.wait_for_selector("body[data-browse=missing]")
        assert tab.locator("#showcase details.chain").first.is_visible()
        assert tab.locator("#showcase details.chain").count() == 60
        assert not tab.locator("#browse").is_visible()
        assert tab.get_by_text("needs the folder report-data beside this page").is_visible()
        if made == "gone":
            assert violations(tab) == []
        opener.close()


def test_names_that_are_no_files_are_none(chains, workspace):
    known = workspace.read(IMAGES, ["image_hash"]).to_pylist()[0]["image_hash"]
    assert chains.file(f"images/{known}")[1] == "image/png"
    for name in (
        "", "index", "index.js/", "../index.js", "chains-9999.js", "chains-00000000000000000000.js", "chains--001.js",
        "images/", "images/../index.js", "images/..", "images/%2e%2e", f"images/{known}/x", "images/unknown",
        "search-001.js\x00", "completions-0099.js", "workspace.json", "chains-٠٠٠٠.js",
    ):  # fmt: skip
        assert chains.file(name) is None, name


def test_as_many_chains_as_the_recipe_says_and_every_file_is_named(workspace, tmp_path):
    chains = browse.beside(workspace, ReportConfig(browse=60, completions=1))
    place = browse.write(chains, tmp_path)
    assert sorted(made.name for made in place.glob("*.js")) == sorted(chains.names())
    assert len(list(place.glob("chains-*.js"))) == 2
    index = json.loads((place / "index.js").read_text().removesuffix(");\n").split(",", 2)[2])
    assert {len(index[name]) for name in ("id", "domain", "drop", "question", "strip")} == {60}
    assert set(index["role"]) == {0, 2}
    completions = json.loads((place / "completions-0000.js").read_text().removesuffix(");\n").split(",", 2)[2])
    assert completions
    assert all(len(rows) == len({row[0] for row in rows}) for rows in completions.values())
    assert browse.beside(workspace, ReportConfig(browse=0)) is None


def test_a_chain_that_went_away_since_leaves_its_place_empty(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_source(workspace, "a", "a", "train", 3, 0.5, None)
    kept = rollout_row("p", "a", "train", 0, "3", True, random.Random(0))
    commit(workspace.partition(ROLLOUTS, "kept"), [kept])
    chains = browse.served(workspace, ReportConfig())
    assert chains.setup()["count"] == 7
    workspace.partition(ROLLOUTS).clear()
    chains._group.cache_clear()
    rows = json.loads(chains.file("chains-0000.js")[0].decode().removesuffix(");\n").split(",", 2)[2])
    assert rows.count(None) == 6
    # The one that is left never had a problem.
    assert [(row["id"], row["question"]) for row in rows if row] == [("p-000", "")]


def test_a_workspace_without_rollouts_has_no_browser(tmp_path):
    workspace = Store.open(tmp_path / "w")
    add_run(workspace, "seed-0", 0, False, {"a": 1.0, "b": 1.0}, 1)
    assert browse.beside(workspace, ReportConfig()) is None
    assert "browser-data" not in write.write_report(build.build(workspace), tmp_path / "out")["html"].read_text()


# --- served -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(workspace, built):
    chains = browse.served(workspace, ReportConfig())
    server, shown = page_server.bind(0), page.render(built, browser=chains.setup())
    thread = threading.Thread(target=page_server.serve, args=(server, shown, chains))
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def ask(server, path, **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    connection.request(headers.pop("method", "GET"), path, headers={"Host": "localhost:1", **headers})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@needs_browser
def test_the_served_page_is_the_same(browser, served, workspace):
    host, port = served.server_address
    opener = Opener(browser, lambda url: url.startswith(("data:", f"http://{host}:{port}/")))
    tab = opener(f"http://{host}:{port}/", offline=False)
    tab.wait_for_selector("body[data-browse=ready]")
    settled(tab, lambda: tab.locator("#browse-drop").fill("0.5"))
    rows = tables(workspace)
    assert set(listed(tab)) == {key for key, row in rows.items() if (row["drop"] or 0) >= 0.5}
    identity = next(key for key, row in rows.items() if row["domain"] == EVIL)
    settled(tab, lambda: tab.locator("#browse-drop").fill(""))
    chain = opened(tab, identity)
    assert chain.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    assert tab.evaluate("window.pwned") is None
    opener.close()
    assert opener.trouble == []


def test_the_server_gives_its_files_to_nobody_else(served, workspace):
    assert served.server_address[0] == "127.0.0.1"
    good, body = ask(served, "/report-data/index.js")
    assert (good.status, good.headers["Content-Type"]) == (200, "text/javascript")
    assert good.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert body.startswith(b'curateData("index.js"')
    assert ask(served, "/report-data/index.js", method="HEAD")[1] == b""
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Host": "evil.example:80"}):
        assert ask(served, "/report-data/index.js", **headers)[0].status == 403
        assert ask(served, "/", **headers)[0].status == 403
    secret = workspace.root / "workspace.json"
    assert secret.exists()
    for path in (
        "/workspace.json", "/../workspace.json", "/report-data/../workspace.json", "/report-data/..%2fworkspace.json",
        "//etc/passwd", "/report-data//etc/passwd", "/report-data/images/../../workspace.json", "/report-data",
    ):  # fmt: skip
        assert ask(served, path)[0].status == 404, path
    assert ask(served, "/", method="POST")[0].status == 501


def test_the_command_serves_until_it_is_interrupted(workspace):
    command = [sys.executable, "-m", "prm", "report", workspace.root, "--serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as job:
        line = job.stdout.readline()
        assert "shows" in line and "http://127.0.0.1:" in line
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        assert b"Dataset quality" in connection.getresponse().read()
        with pytest.raises(UserError, match=f"Port {port} is taken"):
            page_server.bind(port)
        job.send_signal(signal.SIGINT)
        assert job.wait(10) == 0
