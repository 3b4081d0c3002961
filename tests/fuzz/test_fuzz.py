"""Random rows, texts and images for as long as FUZZ_SECONDS says (600 in all): no crash, no hang.

`make fuzz` runs it; the suite runs it for a few seconds. What it found stays as a test of its own elsewhere.
"""

import contextlib
import io
import os
import random
import signal
import time

import pytest
from PIL import Image, features

from curate.errors import RowError
from curate.graders import GRADERS, extract, grade, infer_type
from curate.images import inspect
from curate.recipe.chain_sections import AnyChainMap
from curate.recipe.parsing import validate
from curate.recipe.source_sections import ColumnMap, HubSource
from curate.sources import columns
from curate.sources.base import BadRow, SourceRow
from curate.sources.fields.rollouts import chains
from curate.text.forms import FORMS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "8")) / 4
SEED = int(os.environ.get("FUZZ_SEED", "0"))
# Nothing here may take longer.
HANG = 15


@contextlib.contextmanager
def no_hang(what: object):
    def late(*_):
        raise AssertionError(f"hangs on {what!r}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def rounds(name: str):
    """(number, a generator of its own) until the time is up; a failure names its number."""
    end, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        yield number, random.Random(f"{name}-{SEED}-{number}")
        number += 1
    print(f"{name}: {number:,} rounds")
    assert number > 20


PIECES = [
    "A", "B.", "(C)", "Answer:", "The answer is", "Final answer:", "\\boxed{", "}", "\\frac{1}{2}", "$", "%",
    "1,234", "-", "3.5e9", "1e999999", "\u221a3", "\u00b2", "\u00bd", "Question:", "Choices:", "Options:",
    "Hint:", "\n", "\n\n", " ", "<image>", "<image 1>", "yes", "No", "[", "]", "['a',", "{", "{a}", "\\left(",
    "x=", "\u202e", "\ud83d", "\0", "\x1b[31m", "Step 12", "9" * 50, "a" * 200, "((((", "^" * 20, "\\sqrt" * 5,
    "Answer with the letter.", "Be succinct.", "+", "\u043a\u0438", "Step 1:", "human", "gpt",
    "### Question:\n", "\n\n### Solution Process:\n",
]  # fmt: skip


def text(draw: random.Random) -> str:
    parts = [
        draw.choice(PIECES) if draw.random() < 0.8 else chr(draw.randrange(0x3000)) for _ in range(draw.randrange(15))
    ]
    return draw.choice(["", " "]).join(parts)


KEYS = (
    "user", "assistant", "from", "value", "bytes", "path", "completions", "text", "rating", "chosen_completion",
    "human_completion", "step",
)  # fmt: skip


def cell(draw: random.Random, depth: int = 0):
    kinds = [
        lambda: None, lambda: text(draw), lambda: draw.randrange(-5, 50), lambda: draw.uniform(-1e18, 1e18),
        lambda: float("nan"), lambda: draw.random() < 0.5, lambda: draw.randbytes(6), lambda: str(draw.randrange(9)),
    ]  # fmt: skip
    if depth < 3:
        kinds += [
            lambda: [cell(draw, depth + 1) for _ in range(draw.randrange(4))],
            lambda: {draw.choice([*KEYS, text(draw)]): cell(draw, depth + 1) for _ in range(draw.randrange(4))},
        ]  # fmt: skip
    return draw.choice(kinds)()


def settings(draw: random.Random) -> HubSource | None:
    names = ["q", "a", "c", "i", "t", "d", "q.x"]
    maps = {
        "id": draw.choice([None, "i", ("i", "d")]),
        "question": draw.choice(["q", "{q}\n{c}", "{q.x} {a}", "q.x"]),
        "answer": draw.choice(["a", "a.b"]),
        "choices": draw.choice([None, "c", ("c", "t")]),
        "image": draw.choice([None, "i", ("i", "q")]),
        "conversation": draw.choice([None, None, "t"]),
        "decimals": draw.choice([None, "d"]),
    }
    try:
        return HubSource(
            kind="hub", name="f", dataset="d", columns=ColumnMap(**maps), form=draw.choice(list(FORMS)),
            answer_form=draw.choice(["text", "index", "accepted"]),
            where={draw.choice(names): None} if draw.random() < 0.1 else {},
            choices_form=draw.choice(["list", "commas", "lettered"]), require_image=draw.random() < 0.1,
        )  # fmt: skip
    except ValueError:
        return None


def damaged(draw: random.Random, value):
    """The value with a cell of it replaced now and then, at any depth."""
    if draw.random() < 0.03:
        return cell(draw)
    if isinstance(value, list):
        return [damaged(draw, each) for each in value if draw.random() > 0.02]
    if isinstance(value, dict):
        return {key: damaged(draw, each) for key, each in value.items() if draw.random() > 0.02}
    return value


def chain_record(draw: random.Random, form: str) -> dict:
    """A record as the form's dataset has it."""
    count = draw.randrange(1, 6)
    steps = [text(draw) or "x" for _ in range(count)]
    if form == "columns":
        graded = [draw.choice([0, 8, 16]) for _ in steps]
        right = [draw.randint(0, m) for m in graded]
        labels = draw.choice([[draw.choice([True, 0.5, 0, -1]) for _ in steps], draw.randrange(-1, count)])
        return {"s": [{"step": step} for step in steps], "l": labels, "k": right, "m": graded, "o": draw.random() < 0.5}
    if form == "tagged":
        tag, head = "\u043a\u0438", text(draw) + " Step 1:"
        marks = [draw.choice("+-") for _ in steps]
        plain = head + "".join(step + tag for step in steps)
        return {"s": plain, "l": head + "".join(step + mark for step, mark in zip(steps, marks, strict=True))}
    if form == "conversation":
        asked = ["### Question:\n" + text(draw) + "\n\n### Solution Process:\n" + steps[0], *steps[1:]]
        turns = [turn for step in asked for turn in (("human", step), ("gpt", draw.choice("+-")))]
        return {"s": [{"from": who, "value": what} for who, what in turns]}
    options = [[{"text": s, "rating": draw.choice([-1, 0, 1, None])} for s in [step, text(draw)]] for step in steps]
    return {"s": [{"completions": each, "chosen_completion": draw.choice([0, 1, None])} for each in options]}


def test_chains():
    found = 0
    for number, draw in rounds("chains"):
        form = draw.choice(["columns", "tagged", "conversation", "rated"])
        record = {name: damaged(draw, value) for name, value in chain_record(draw, form).items()}
        more: dict = {"labels": "l"} if form == "tagged" else {}
        if form == "columns":
            labels_form = draw.choice(["value", "sign", "first-error"])
            more = draw.choice([{}, {"labels": "l", "labels_form": labels_form}, {"right": "k", "graded": "m"}])
        tree = {"form": form, "steps": "s.step" if form == "columns" else "s"} | more
        map_ = validate(AnyChainMap, tree, "chain")
        with no_hang((number, record)):
            try:
                taken = list(chains(record, map_))
            except RowError as error:
                assert error.reason
                continue
        for _, one in taken:
            found += 1
            assert one.steps
            assert all(step.strip() for step in one.steps)
            assert len(one.values) in (0, len(one.steps))
            assert all(value is None or 0 <= value <= 1 for value in one.values)
            "".join(one.steps).encode()
    assert found > 20


def test_rows():
    for number, draw in rounds("rows"):
        source = settings(draw)
        record = {name: cell(draw) for name in ("q", "a", "c", "i", "t", "d")}
        if source is None:
            continue
        with no_hang((number, record)):
            for row in columns.rows(record, source, 1, None):
                assert isinstance(row, SourceRow | BadRow)
                row.source_row.encode()
                if isinstance(row, BadRow):
                    assert row.error.reason
                    continue
                for value in (row.question, row.answer, *row.choices, *row.accepted):
                    assert value is None or value.encode() is not None
                if row.answer:
                    kind = infer_type(row.answer, row.choices)
                    if kind != "expression":
                        grade(row.answer, row.answer, kind, row.choices, row.accepted, row.tolerance)


def test_answers():
    kinds = [kind for kind in GRADERS if kind != "expression"]
    for number, draw in rounds("answers"):
        response, gold = text(draw) * draw.choice([1, 1, 1, 50]), text(draw)
        with no_hang((number, response, gold)):
            read = extract(response)
            found = None if read is None else read.answer
            for kind in kinds:
                verdict = grade(found, gold, kind, ["x", "y", gold], tolerance=draw.choice([None, 0.01]))
                assert verdict.outcome in (True, False, None)
            if number % 20 == 0:
                # Through the worker process, which may take its time but must come back.
                assert grade(found, gold, "expression").outcome in (True, False, None)


def seeds() -> list[bytes]:
    """A small image in every format that Pillow writes here."""
    Image.init()
    found = []
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "L", "P", "RGBA", "1"):
            buffer = io.BytesIO()
            try:
                Image.new(mode, (33, 21), 1).save(buffer, kind)
            except (OSError, ValueError, KeyError, TypeError):
                # Not every format takes every mode.
                continue
            found.append(buffer.getvalue())
    return found


def test_images():
    assert features.check("jpg")
    known = seeds()
    for number, draw in rounds("pictures"):
        data = bytearray(draw.choice(known))
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(data))
            match draw.randrange(5):
                case 0:
                    data[at] ^= 1 << draw.randrange(8)
                case 1:
                    data[at] = draw.choice([0, 1, 127, 255])
                case 2:
                    del data[at : at + draw.randrange(1, 9)]
                case 3:
                    data[at:at] = draw.randbytes(draw.randrange(1, 9))
                case 4:
                    del data[max(at, 1) :]
            if not data:
                break
        with no_hang((number, bytes(data[:200]))):
            try:
                facts = inspect(bytes(data), 1_000_000, 10_000_000)
            except RowError as error:
                assert error.reason.startswith("image-")
            else:
                assert facts.width * facts.height <= 1_000_000


@pytest.mark.parametrize("name", FORMS)
def test_forms_take_long_texts_in_time(name):
    for piece in PIECES:
        for repeated in (
            piece * 3000,
            (piece + "\n") * 2000,
            "Question:" + piece * 2000 + "\nChoices:\n" + "A. " * 2000,
        ):
            # Of this process, whatever else the machine does.
            begin = time.process_time()
            with no_hang((name, piece)), contextlib.suppress(RowError):
                FORMS[name](repeated, repeated)
            assert time.process_time() - begin < 2, (name, piece)
