"""The profile of a workspace: what each domain's figures are, and a page that escapes what it shows."""

import io
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from curate import pipeline
from curate.cli.app import app
from curate.errors import UserError
from curate.inspect import profile, profile_page
from curate.runtime.reporter import Silent
from curate.tables.store import Store

NASTY = "<script>window.pwned = 1</script> & <img src=x onerror=alert(1)>"


@pytest.fixture
def workspace(tmp_path):
    for number in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (60 + 20 * number, 40), (80 * number, 30, 200)).save(buffer, "PNG")
        (tmp_path / f"{number}.png").write_bytes(buffer.getvalue())
    rows = [
        {"q": NASTY, "a": "7", "i": "0.png", "c": None},
        {"q": "Which?", "a": "B", "i": "1.png", "c": ["up", NASTY]},
        {"q": "Which one of these?", "a": "C", "i": "2.png", "c": ["x", "y", "z"]},
        {"q": "Text alone", "a": "yes", "i": None, "c": None},
        {"q": "Text alone", "a": "yes", "i": None, "c": None},
        {"q": "Gone", "a": "1", "i": "gone.png", "c": None},
        {"q": None, "a": "1", "i": None, "c": None},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bad.jsonl").write_text("no json\n" * 2)
    columns = {"question": "q", "answer": "a", "image": "i", "choices": "c"}
    sources = [
        {"kind": "files", "name": "mine", "path": "rows.jsonl", "columns": columns, "licence": "MIT"},
        {"kind": "files", "name": "bad", "path": "bad.jsonl", "domain": "mine"},
        {"kind": "synthetic", "name": "twins", "task": "dial_read", "rows": 16, "defect": "near-duplicates"},
        {"kind": "synthetic", "name": "meta", "task": "dial_read", "rows": 4, "role": "meta", "domain": "twins"},
    ]
    tree = {"name": "t", "ingest": {"sources": sources}, "dedup": {}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    place = Store.open(tmp_path / "w")
    pipeline.run(pipeline.load(tmp_path / "recipe.yaml"), place, Silent())
    return place


def test_figures_of_each_domain(workspace):
    built = profile.build(workspace)
    mine, meta, twins = built.domains
    assert [(d.domain, d.role) for d in built.domains] == [("mine", "train"), ("twins", "meta"), ("twins", "train")]
    assert (mine.problems, mine.images, mine.without_image, mine.duplicates) == (4, 3, 1, 1)
    assert mine.answer_types == {"choice": 2, "number": 1, "yes-no": 1}
    assert (mine.choices.low, mine.choices.high) == (2, 3)
    assert (mine.question_length.low, mine.question_length.high) == (6, len(NASTY))
    assert (mine.image_width.low, mine.image_width.median, mine.image_width.high) == (60, 80, 100)
    assert mine.formats == {"PNG": 3}
    assert mine.rejects == {"malformed-line": 2, "image-missing": 1, "null-question": 1}
    assert mine.licences == ("MIT",)
    # 16 rows of 2 problems: all but two are copies of one of them.
    assert twins.dropped == {"near-duplicate": 14}
    assert twins.drop_share == 14 / 16
    assert (meta.problems, meta.dropped, meta.choices, meta.licences) == (4, {}, None, ())
    assert built.checked == ("dedup",)
    assert built.elsewhere == {}
    assert len(twins.samples) == 3
    assert profile.build(workspace, samples=0).domains[0].samples == ()


def test_the_page_escapes_and_loads_nothing(workspace):
    page = profile_page.page(profile.build(workspace, samples=9), workspace)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;window.pwned" in page
    assert page.count("data:image/png;base64,") == 3 + 16 + 4 - 7
    assert "http" not in page.replace("http-equiv", "")


def test_the_command_writes_both_and_prints_a_table(workspace):
    done = CliRunner().invoke(app, ["profile", "-w", str(workspace.root)])
    assert done.exit_code == 0, done.output
    assert "near-duplicate" in done.output.replace("\n", "")
    plain = json.loads((workspace.root / "reports" / "profile.json").read_text())
    assert plain["schema"] == "curate-prm/profile/1"
    assert plain["domains"][0]["question_length"]["low"] == 6
    assert json.loads(CliRunner().invoke(app, ["profile", "-w", str(workspace.root), "--json"]).stdout) == plain


def test_an_empty_workspace_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="curate ingest"):
        profile.build(Store.open(tmp_path / "w"))
