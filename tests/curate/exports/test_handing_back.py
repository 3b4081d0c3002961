"""Exports that come back: VisualPRM's and DreamPRM's files through our own readers, compared with the tables."""

import json
import random

import datasets
import export_testbed as bed
import pytest
import yaml
from test_handing_on import LABELLED, NEVER, NO_LABEL, THERE, by_role, judged, shown

from curate import pipeline
from curate.errors import UserError
from curate.exports import run as exports
from curate.exports.base import Options
from curate.exports.formats import dreamprm
from curate.exports.formats.visualprm import file_name
from curate.exports.run import ExportRequest
from curate.recipe import shipped
from curate.runtime.reporter import Silent
from curate.tables.schema import EXAMPLES, IMAGES, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store
from curate.text.prompts import problem_text


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return bed.fill(tmp_path_factory.mktemp("export") / "w")


@pytest.fixture
def export(workspace, tmp_path):
    def go(name, **options):
        return tmp_path / "out", exports.run(
            ExportRequest(name, Options(**options)), tmp_path / "out", workspace, Silent()
        )

    return go


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def ingest(tmp_path, *sources, shard=False):
    """A new workspace of these sources, the ledger, and what was said."""
    recipe = tmp_path / "back.yaml"
    recipe.write_text(yaml.safe_dump({"ingest": {"sources": list(sources)}} | ({"shard": {}} if shard else {})))
    place, notes = Store.open(tmp_path / "back"), Notes()
    return place, pipeline.run(pipeline.load(recipe), place, notes)["ingest"], notes.said


def chains(workspace):
    """(question, choices, answer, images, steps, outcome, labels with counts) of every chain."""
    problems = {row["problem_id"]: row for row in workspace.read(PROBLEMS).to_pylist()}
    images = {row["image_hash"]: row["bytes"] for row in workspace.read(IMAGES).to_pylist()}
    labels = {(row["rollout_id"], row["step_index"]): row for row in workspace.read(STEP_LABELS).to_pylist()}
    found = []
    for row in workspace.read(ROLLOUTS).to_pylist():
        problem = problems[row["problem_id"]]
        steps = tuple(labels.get((row["rollout_id"], step)) for step in range(len(row["steps"])))
        found.append(
            (
                problem["domain"],
                problem["question"],
                tuple(problem["choices"]),
                problem["answer"],
                tuple(images[key] for key in problem["image_hashes"]),
                tuple(row["steps"]),
                row["outcome"],
                tuple(step and (step["value"], step["k"], step["m"]) for step in steps),
            )
        )
    return sorted(found, key=repr)


def test_visualprm_conversations_come_back(export, tmp_path):
    folder, report = export("visualprm", threshold=0.3)
    assert report.rollouts.rejected == NEVER | NO_LABEL
    meta = json.loads((folder / "meta.json").read_text())
    assert {part["root"] for part in meta.values()} == {"images"}
    sources = []
    for name, part in meta.items():
        lines = (folder / part["annotation"]).read_text().split("\n")[:-1]
        assert len(lines) == part["length"]
        shows = any("image" in json.loads(line) for line in lines)
        sources.append(
            {"kind": "files", "name": name, "path": f"out/{part['annotation']}", "root": "out/images", "domain": name,
             "columns": {"id": "id", "question": None, "answer": None, "image": "image" if shows else None},
             "chain": {"form": "conversation", "steps": "conversations"}, "form": "instructed"}
        )  # fmt: skip
    place, ledger, _ = ingest(tmp_path, *sources)
    # Two chains of one problem whose texts agree up to the cut are one chain to a reader of the file.
    assert ledger.out + ledger.duplicate == report.rollouts.out == len(LABELLED)
    expected = set()
    for number in LABELLED:
        problem = bed.problem_row(bed.CHAINS[number][0])
        steps, flags = judged(number, 0.3)
        question = problem_text(problem["question"], ()).strip()
        expected.add(
            (question, tuple(" ".join(each.split()) for each in problem["choices"]), tuple(steps), tuple(flags))
        )
    found = {
        (question, tuple(" ".join(each.split()) for each in choices), tuple(step.strip() for step in steps),
         tuple(bool(label[0]) for label in labels))
        for _, question, choices, _, _, steps, _, labels in chains(place)
    }  # fmt: skip
    assert found == expected
    asked = {(question, images) for _, question, _, _, images, *_ in chains(place)}
    assert {len(images) for _, images in asked} == {0, 1, 2}
    assert {images for _, images in asked} == {tuple(shown(name)) for name in ("one", "none", "two")}


def test_visualprm_files_are_named_safely_and_loadable(export, tmp_path):
    system = "Judge each step: + or -."
    folder, _ = export("visualprm", system=system)
    assert len({file_name(name) for name in ("a/b", "a-b", "../a-b", "a b", "日本", "")}) == 6
    assert all(file_name(name).strip(".").isascii() and "/" not in file_name(name) for name in ("../x", "日/本", "."))
    files = sorted(path.name for path in (folder / "annotations").iterdir())
    assert all(name.startswith("train-") and name.endswith("_prm.jsonl") for name in files)
    assert len(files) == 3
    for name in files:
        rows = datasets.load_dataset(
            "json", data_files=str(folder / "annotations" / name), split="train", cache_dir=str(tmp_path / "cache")
        ).to_list()
        for row in rows:
            turns = row["conversations"]
            assert turns[0] == {"from": "system", "value": system}
            assert [turn["from"] for turn in turns[1:]] == ["human", "gpt"] * (len(turns) // 2)
            images = row.get("image") or []
            count = len(images) if isinstance(images, list) else 1
            assert turns[1]["value"].startswith("### Question:\n" + "<image>\n" * count)
            assert turns[1]["value"].count("<image>") == count


def one_image(number):
    return len(bed.PROBLEMS_OF[bed.CHAINS[number][0]][2]) == 1


TRAIN = [n for n in THERE if bed.CHAINS[n][3] and one_image(n)]
# Decided ones; the testbed's third meta chain speaks of "step 4", which the loader would look for.
META = [n for n in THERE if bed.CHAINS[n][0] == "meta" and bed.CHAINS[n][2] is not None][:2]


def test_dreamprm_files_come_back(export, tmp_path, workspace):
    folder, report = export("dreamprm")
    assert report.rollouts.rejected == NEVER | {
        "several-images": 1, "no-image": 2, "no-such-set": 2, "undecided": 1, "unreadable-steps": 1, "not-labelled": 1,
    }  # fmt: skip
    rows = json.loads((folder / "train.json").read_text())
    assert len(rows) == sum(value is not None for n in TRAIN for value, *_ in bed.CHAINS[n][3])
    assert rows[0] | {"curate": None} == {
        "id": rows[0]["id"], "sid": 1, "input": problem_text(*(bed.PROBLEMS_OF["one"][i] for i in (3, 4))),
        "add": bed.FIVE[0], "ground_truth": "B", "image_path": rows[0]["image_path"], "dataset": "free/train",
        "score": 3, "times": 4, "accuracy": 0.75, "curate": None,
    }  # fmt: skip
    assert (folder / rows[0]["image_path"]).read_bytes() == bed.IMAGE_FILES["a"]
    sources = [
        {"kind": "dreamprm", "name": f"dp-{role}", "path": f"out/{role}.json", "role": role}
        for role in ("train", "meta")
    ]
    place, ledger, said = ingest(tmp_path, *sources, shard=True)
    assert (ledger.taken, ledger.out, said) == (len(TRAIN) + len(META), len(TRAIN) + len(META), [])
    expected = []
    for number in (*TRAIN, *META):
        problem, (_, steps, outcome, labels) = bed.problem_row(bed.CHAINS[number][0]), bed.CHAINS[number]
        counted = tuple((value, k if m else None, m or None) for value, k, m in labels or ()) or (None,) * len(steps)
        expected.append(
            (problem["domain"], problem["question"], tuple(problem["choices"]), problem["answer"],
             tuple(shown(bed.CHAINS[number][0])), tuple(steps), outcome, counted)
        )  # fmt: skip
    assert chains(place) == sorted(expected, key=repr)
    # The same problems, by the same content: identities agree.
    names = {bed.problem_row(bed.CHAINS[n][0])["question"] for n in (*TRAIN, *META)}
    assert {row["question"] for row in place.read(PROBLEMS).to_pylist()} == names
    roles = [row["role"] for row in place.read(EXAMPLES).to_pylist()]
    assert (roles.count("train"), roles.count("meta")) == (len(TRAIN), len(META))


def bare(rows):
    """As DreamPRM publishes rows: without our key, shuffled, no response split off."""
    rows = [{name: value for name, value in row.items() if name != "curate"} for row in rows]
    random.Random(3).shuffle(rows)
    return rows


@pytest.mark.parametrize("minimal", [False, True])
def test_published_rows_have_no_key_of_ours_and_no_order(export, tmp_path, minimal):
    folder, _ = export("dreamprm")
    rows = bare(json.loads((folder / "train.json").read_text()))
    if minimal:
        # What the README calls the minimal form.
        rows = [{name: row[name] for name in ("input", "add", "image_path", "dataset", "accuracy")} for row in rows]
    (folder / "train.json").write_text(json.dumps(rows))
    place, ledger, _ = ingest(tmp_path, {"kind": "dreamprm", "name": "t", "path": "out/train.json"})
    assert (ledger.out, ledger.rejected) == (len(TRAIN), {})
    # Chains that begin alike have the same prefixes, and labels that are estimates of the same: either may get either.
    found, expected = set(), set()
    sizes = {"".join(bed.CHAINS[number][1]): len(bed.CHAINS[number][1]) for number in TRAIN}
    for *_, steps, outcome, labels in chains(place):
        whole = "".join(steps)
        found.add((whole, outcome))
        found |= {("".join(steps[:at]), label[0]) for at, label in enumerate(labels, 1) if label[0] is not None}
        # A prefix that is not there leaves its step without a label; where steps have no numbers, a longer step.
        assert len(steps) == sizes[whole] - (minimal and len(labels) < sizes[whole])
        assert minimal or [label[0] for label in labels].count(None) in (0, 1)
    for number in TRAIN:
        _, steps, outcome, labels = bed.CHAINS[number]
        # Graded anew; a chain without an answer may have been cut short, and is no wrong one. Without gold: undecided.
        right = None if minimal or "No idea." in steps[-1] else outcome
        expected.add(("".join(steps), right))
        expected |= {("".join(steps[:at]), value) for at, (value, *_) in enumerate(labels, 1) if value is not None}
    assert found == expected


RESPONSE = "Step 1: I look.\nStep 2: Red.\n\nFinal answer: A"


def released(right, wrong, answered_right, answered_wrong):
    """Rows in the form of the released meta file."""
    rows = []
    for flag, count, answered in ((True, right, answered_right), (False, wrong, answered_wrong)):
        for number in range(count):
            said = f"Question: What is {number}?\nOptions: (A) red (B) blue"
            said += f"\n\n{RESPONSE}{number}" if number < answered else ""
            rows.append({"id": number, "true_false": flag, "input": said, "image_path": "a.png"})
    return rows


def test_a_meta_file_that_gives_its_labels_away_is_pointed_out(tmp_path):
    (tmp_path / "a.png").write_bytes(bed.IMAGE_FILES["a"])
    source = {"kind": "dreamprm", "name": "released", "path": "meta.json", "role": "meta"}
    (tmp_path / "meta.json").write_text(json.dumps(released(6, 6, 3, 0)))
    place, ledger, said = ingest(tmp_path, source)
    (note,) = said
    assert (
        "gives its labels away: of 6 rows that are marked true 3 have a response, of 6 that are marked false 0" in note
    )
    assert (ledger.out, ledger.rejected) == (3, {"no-steps": 9})
    assert {row["outcome"] for row in place.read(ROLLOUTS).to_pylist()} == {True}
    assert {row["answer"] for row in place.read(PROBLEMS).to_pylist()} == {None}
    assert {tuple(row["choices"]) for row in place.read(PROBLEMS).to_pylist()} == {("red", "blue")}


@pytest.mark.parametrize("counts", [(6, 6, 6, 6), (10, 10, 5, 5), (4, 0, 2, 0)])
def test_a_fair_meta_file_is_not(tmp_path, counts):
    (tmp_path / "a.png").write_bytes(bed.IMAGE_FILES["a"])
    (tmp_path / "meta.json").write_text(json.dumps(released(*counts)))
    _, ledger, said = ingest(tmp_path, {"kind": "dreamprm", "name": "m", "path": "meta.json", "role": "meta"})
    assert said == []
    assert ledger.out + ledger.duplicate == counts[2] + counts[3]


def test_odd_rows_of_dreamprm_files_are_rejects_with_reasons(tmp_path):
    (tmp_path / "a.png").write_bytes(bed.IMAGE_FILES["a"])
    good = {"input": "Q?", "add": "Step 1: x", "image_path": "a.png", "dataset": "d", "accuracy": 1}
    shown = {"image_path": "a.png"}
    rows = [
        good, 7, good | {"add": None}, good | {"add": "\ud800"}, good | {"add": "y", "accuracy": 1.5},
        good | {"add": "z", "accuracy": True}, good | {"add": "v", "accuracy": None},
        good | {"input": "R?", "image_path": "../b.png"}, good | {"input": "S?", "score": 3, "times": 2},
        shown | {"true_false": 1, "input": "Question: x\n\nStep 1: y"}, shown | {"true_false": True, "input": "x"},
        good | {"input": "T?", "curate": {"answer_type": "odd", "tolerance": "x"}},
        good | {"input": {"a": 1}, "add": "w"},
    ]  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(rows))
    place, ledger, _ = ingest(tmp_path, {"kind": "dreamprm", "name": "t", "path": "t.json"})
    assert (ledger.taken, ledger.out) == (13, 2)
    assert ledger.rejected == {
        "malformed-row": 1, "no-steps": 1, "not-utf-8": 1, "unusable-label": 5, "image-outside-root": 1,
        "unknown-form": 1, "unusable-value": 1,
    }  # fmt: skip
    assert place.read(REJECTS).num_rows == 11
    for content, message in (("{}", "not a JSON array"), ("[", "not a readable JSON")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match=message):
            ingest(tmp_path, {"kind": "dreamprm", "name": "bad", "path": "bad.json"})
    with pytest.raises(UserError, match="no file at"):
        ingest(tmp_path, {"kind": "dreamprm", "name": "none", "path": "none.json"})


def test_a_limit_takes_the_first_rows(tmp_path):
    (tmp_path / "a.png").write_bytes(bed.IMAGE_FILES["a"])
    (tmp_path / "meta.json").write_text(json.dumps(released(6, 6, 6, 6)))
    _, ledger, _ = ingest(tmp_path, {"kind": "dreamprm", "name": "m", "path": "meta.json", "role": "meta", "limit": 4})
    assert (ledger.taken, ledger.out) == (4, 4)


def test_the_recipe_of_dreamprm_reads_a_copy_of_its_files(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("a", "m"):
        (tmp_path / "dataset" / f"{name}.png").write_bytes(bed.IMAGE_FILES[name])
    row = {"id": 5, "sid": 1, "input": "Your task", "add": "Step 1: x", "ground_truth": "1.78947", "score": 7,
           "image_path": "dataset/a.png", "dataset": "chartqa", "times": 11, "accuracy": 0.6363}  # fmt: skip
    (tmp_path / "data" / "train.json").write_text(json.dumps([row]))
    meta = [each | {"image_path": "dataset/m.png"} for each in released(1, 1, 1, 1)]
    (tmp_path / "data" / "meta.json").write_text(json.dumps(meta))
    place = Store.open(tmp_path / "w")
    ledger = pipeline.run(pipeline.load(shipped.folder() / "dreamprm.yaml", (), tmp_path), place, Silent())["ingest"]
    assert (ledger.taken, ledger.out, ledger.duplicate) == (3, 2, 1)
    (label,) = place.read(STEP_LABELS).to_pylist()
    assert (label["k"], label["m"], label["value"], label["domain"]) == (7, 11, 0.6363, "chartqa")


HEAD = "Question: q\n\n"


@pytest.mark.parametrize(
    ("steps", "read"),
    [
        (["Step 1: a.\n", "Step 2: b.\nFinal answer: A"], True),
        (["### Step 1: a.\n\n", "### Step 2: b.\n\nFinal answer: A"], True),
        (["Step 1: a. Final answer: A"], True),
        (["I see.\n\n", "Final answer: A"], False),
        # No answer: the last step would be empty.
        (["Step 1: a.\n", "Step 2: b."], False),
        (["Step 1: a.\n", "Final answer: A"], False),
        # Numbers that the loader would look for, or cut at.
        (["Step 1: as in Step 2.\n", "Step 2: b.\nFinal answer: A"], False),
        (["Step 1: see step 12.\nFinal answer: A"], False),
        (["Step 1: Final answer: B?\n", "Step 2: no.\nFinal answer: A"], False),
        ([f"Step {10**9}: a. Final answer: A"], False),
        ([], False),
    ],
)
def test_steps_that_dreamprms_loader_finds(steps, read):
    assert dreamprm.is_read(HEAD, steps) is read


def test_steps_are_numbered_where_the_loader_would_not_find_them(export):
    folder, report = export("dreamprm")
    rows = json.loads((folder / "meta.json").read_text())
    plain = next(row for row in rows if "First, the red one." in row["input"])
    head = "Question: What is shown?\nOptions: (A) red (B) blue\n\n"
    assert (
        plain["input"]
        == head + "Step 1: First, the red one.\n\nStep 2: It is red.\n\nThe answer is A.\n\nFinal answer: A"
    )
    assert dreamprm.cuts(plain["input"]) == [
        head + "Step 1: First, the red one.\n\n",
        head + "Step 1: First, the red one.\n\nStep 2: It is red.\n\nThe answer is A.\n\n",
    ]
    assert "The steps of 1 meta rows were numbered anew" in (folder / "README.md").read_text()
    assert by_role(META)["meta"] == sorted(META) and report.splits["meta"] == 2
