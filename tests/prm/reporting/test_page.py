"""The HTML page in a real browser without a network: charts, themes, widths, keyboard, and hostile texts."""

from __future__ import annotations

from functools import partial
from html.parser import HTMLParser

import pytest
from page_bed import Opener, needs_browser
from report_testbed import NASTY, RIGHT_TO_LEFT, VERY_LONG, make

from prm.render import page, write
from prm.reporting import build


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build.build(make(tmp_path_factory.mktemp("page") / "w", train=6, test=3))


@pytest.fixture(scope="module")
def path(built, tmp_path_factory):
    return write.write_report(built, tmp_path_factory.mktemp("out"))["html"]


@pytest.fixture
def view(browser, path):
    """Opens the page; afterwards nothing may have been requested, refused or thrown."""
    opener = Opener(browser, lambda url: url.startswith("data:") or url == path.as_uri())
    yield partial(opener, path.as_uri())
    opener.close()
    assert opener.trouble == []


class _Outline(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def outline(text):
    parser = _Outline()
    parser.feed(text)
    return parser.tags


def test_the_page_is_light_and_whole(path):
    assert path.stat().st_size < 8_000_000
    tags = outline(path.read_text())
    assert not [tag for tag, attributes in tags if tag == "script" and "src" in attributes]
    links = [attributes["href"] for tag, attributes in tags if tag in ("a", "link")]
    assert all(link.startswith(("#", "data:")) for link in links)
    images = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert images
    assert all(image.startswith("data:image/") for image in images)


def test_tables_and_regions_are_named(path):
    tags = outline(path.read_text())
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption")
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    identities = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    targets = {attributes.get("aria-labelledby") for _, attributes in tags} - {None}
    targets |= {attributes["href"][1:] for tag, attributes in tags if attributes.get("href", "").startswith("#")}
    assert targets <= set(identities)
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert {"header", "nav", "main", "footer"} <= set(names)
    assert all(attributes.get("aria-label") for _, attributes in tags if attributes.get("role") == "img")
    scrolls = [attributes for _, attributes in tags if attributes.get("class") == "scroll"]
    assert all(attributes["tabindex"] == "0" for attributes in scrolls)


def test_json_in_a_script_cannot_leave_it():
    text = page.embedded({"name": "</script><!--<script>&"})
    assert "<" not in text
    assert ">" not in text


@needs_browser
def test_charts_are_drawn_without_a_network(view):
    tab = view()
    charts = tab.locator(".plot")
    assert charts.count() == 7
    for place in range(7):
        assert charts.nth(place).locator("svg.main-svg").count() > 0
    # Ten domains with their names at the end of their lines.
    assert tab.locator("#chart-weights .annotation").count() == 10
    assert tab.locator("#chart-running .annotation").count() == 10
    # A bar a domain for rollouts of train, and for completions; the test set's has three.
    assert tab.locator("#chart-tokens .bars .point").count() == 10 + 10 + 3
    # Six ways to pick, for four numbers of candidates.
    assert tab.locator("#chart-best .scatterlayer .point").count() == 6 * 4


@needs_browser
def test_hostile_texts_are_only_text(view):
    tab = view()
    tab.get_by_role("button", name="Open all").click()
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("img[src='x']").count() == 0
    body = tab.locator("body").inner_text()
    assert NASTY in body
    assert RIGHT_TO_LEFT in body
    assert f"{len(VERY_LONG) - 4000:,} more characters" in body
    assert tab.locator("#domains th bdi", has_text="<script>").count() == 1


@needs_browser
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_text_is_readable(view, width, scheme):
    tab = view(width, scheme)
    tab.get_by_role("button", name="Open all").click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = tab.evaluate(
        """() => {
          const light = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = light(getComputedStyle(document.querySelector(".tiles > div")).backgroundColor);
          const found = {};
          for (const label of document.querySelectorAll("#chart-weights .annotation-text")) {
            const tone = light(getComputedStyle(label).fill);
            found[label.textContent] = (Math.max(tone, ground) + 0.05) / (Math.min(tone, ground) + 0.05);
          }
          for (const name of ["h1", "nav a", ".muted", ".verdict.up", ".verdict.down", ".tiles dt", ".tag"]) {
            const tone = light(getComputedStyle(document.querySelector(name)).color);
            found[name] = (Math.max(tone, ground) + 0.05) / (Math.min(tone, ground) + 0.05);
          }
          return found;
        }"""
    )
    assert min(contrasts.values()) >= 4.5, contrasts


@needs_browser
def test_the_theme_follows_the_reader_and_the_button(view):
    def ground(tab):
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    tab = view(scheme="light")
    button = tab.get_by_role("button", name="Theme")
    ink = "document.querySelector('#chart-forest .xtick text').style.fill"
    light, before = ground(tab), tab.evaluate(ink)
    for expected in ("light", "dark", "auto"):
        button.click()
        assert button.inner_text() == f"Theme: {expected}"
        # The chart's own texts follow, too.
        assert ((ground(tab) != light), (tab.evaluate(ink) != before)) == (expected == "dark", expected == "dark")
    tab.emulate_media(color_scheme="dark")
    assert ground(tab) != light
    # The page hears of the change in a turn of its own. (Its policy forbids what `wait_for_function` would do.)
    for _ in range(50):
        if tab.evaluate(ink) != before:
            break
        tab.wait_for_timeout(100)
    assert tab.evaluate(ink) != before


@needs_browser
def test_chains_are_filtered(view, built):
    tab = view()
    chains = tab.locator("details.chain:visible")
    assert chains.count() == len(built.chains)
    tab.get_by_label("Outcome").select_option("wrong")
    tab.get_by_label("Role").select_option("test")
    wanted = [chain for chain in built.chains if chain.role == "test" and chain.outcome is False]
    assert wanted
    assert chains.count() == len(wanted)
    assert tab.get_by_role("status").inner_text() == f"{len(wanted)} chain{'s' * (len(wanted) > 1)}"


@needs_browser
def test_the_keyboard_reaches_everything(view):
    tab = view()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    second = tab.locator("details.chain").nth(1)
    second.locator("summary").focus()
    tab.keyboard.press("Enter")
    assert second.evaluate("element => element.open")


@needs_browser
def test_without_scripts_the_tables_say_it_all(view):
    tab = view(java_script_enabled=False)
    assert tab.locator("#domains tbody tr").count() == 10
    assert tab.locator("details.chain").first.is_visible()
    assert tab.get_by_text("Charts need JavaScript").is_visible()


def test_the_recipe_may_fix_the_theme(built):
    assert ("html", {"lang": "en", "data-theme": "dark"}) in outline(page.render(built, "dark"))
    assert ("html", {"lang": "en"}) in outline(page.render(built))
