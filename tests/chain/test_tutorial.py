"""docs/tutorial.md does what it says: its files look as shown, its commands run, and they print what it shows."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curate.cli.app import app as curate
from curate.recipe.source_sections import SyntheticSource
from curate.sources.synthetic import Synthetic
from curate.tables.schema import ROLLOUTS
from curate.tables.store import Store
from prm.cli.app import app as prm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = {"curate": curate, "prm": prm}
TOPICS = {"bars": "bars_read", "tables": "table_lookup", "dials": "dial_read"}
ROWS = {"train": 6, "meta": 4, "test": 3}


def rows_of(name: str, topic: str, folder: Path, defect: str | None) -> list[dict]:
    """Rows of one topic, with their pictures written."""
    source = SyntheticSource(
        kind="synthetic", name=f"{name}-{topic}", task=TOPICS[topic], rows=ROWS[name], defect=defect
    )
    rows = []
    for row in Synthetic(source).rows():
        picture = f"pictures/{name}-{topic}-{row.source_row}.png"
        (folder / picture).write_bytes(row.images[0])
        rows.append({"topic": topic, "query": row.question, "picture": picture, "label": row.answer})
    return rows


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The reader's folder `mine`, beside `data` as in a clone: training rows with wrong answers about dials and two
    rows that are no good, the same rows put right, and clean meta and test rows.
    """
    clone = tmp_path_factory.mktemp("clone")
    (clone / "data").symlink_to(ROOT / "data")
    mine = clone / "mine"
    (mine / "pictures").mkdir(parents=True)
    found = {name: [row for topic in TOPICS for row in rows_of(name, topic, mine, None)] for name in ("meta", "test")}
    shown = found["test"][0] | {"query": "Which value does the tallest bar have?"}
    odd = [shown, found["meta"][0] | {"picture": "pictures/lost.png"}]
    for name, defect in (("train", "wrong-gold"), ("fixed", None)):
        defects = {"dials": defect}
        rows = [row for topic in TOPICS for row in rows_of("train", topic, mine, defects.get(topic))]
        write(mine / f"{name}.jsonl", rows + (odd if name == "train" else []))
    for name, rows in found.items():
        write(mine / f"{name}.jsonl", rows)
    return mine


def blocks(name: str = "tutorial.md") -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a guide."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / name).read_text(), re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> list[str]:
    """The commands of a block; a backslash joins lines."""
    return text.replace("\\\n", " ").splitlines()


def bare(line: str) -> str:
    """A line without what may differ from one machine to the next: numbers, verdicts, spread of ranks, widths."""
    line = re.sub(r"\(\d+–\d+\)", "", re.sub(r"[┃│]", " ", line))
    line = re.sub(r"\b(up|down|indistinguishable)\b", "VERDICT", line)
    return " ".join(re.sub(r"[-+]?\d[\d,.]*", "0", line).split())


def run(line: str) -> str:
    """What a command prints; in this process, so that torch is imported once."""
    program, *words = shlex.split(line)
    done = CliRunner().invoke(PROGRAMS[program], words)
    assert done.exit_code == 0, f"{line}\n{done.output[-3000:]}{done.exception!r}"
    return done.output


def test_every_block_runs_and_prints_what_is_shown(folder, monkeypatch):
    monkeypatch.chdir(folder)
    printed, kinds = "", set()
    for kind, text in blocks():
        kinds.add(kind)
        match kind:
            case "json":
                assert set(text.splitlines()) <= set((folder / "train.jsonl").read_text().splitlines())
            case "yaml":
                (folder / text.split("\n")[0].removeprefix("# ")).write_text(text)
            case "sh":
                printed = "".join(run(line) for line in lines_of(text))
            case "text":
                lines = [bare(line) for line in printed.splitlines()]
                for line in text.splitlines():
                    assert line == "..." or bare(line) in lines, f"not printed: {line}\n{printed}"
            case _:
                pytest.fail(f"a block of {kind} is not tested")
    assert kinds == {"json", "yaml", "sh", "text"}


def test_what_the_tutorial_says_about_the_wrong_answers(folder):
    """Runs after the commands: dials look hard in training and are not, and with right answers they are like others."""
    right = {}
    for place in ("work", "work2"):
        for row in Store.open(folder / place, create=False).read(ROLLOUTS).to_pylist():
            if row["domain"] == "dials":
                right.setdefault((place, row["role"]), []).append(row["outcome"])
    share = {key: sum(outcomes) / len(outcomes) for key, outcomes in right.items()}
    assert share["work", "train"] < 0.35 < share["work", "meta"]
    assert share["work2", "train"] > share["work", "train"] + 0.2
    assert share["work2", "meta"] == share["work", "meta"]


def test_the_query_of_the_guide_to_meta_sets_runs(folder, monkeypatch):
    monkeypatch.setenv("CURATE_WORKSPACE", str(folder / "work"))
    (text,) = [text for kind, text in blocks("meta-set.md") if kind == "sh"]
    (shown,) = map(run, lines_of(text))
    assert "False" in shown or "false" in shown
