"""A workspace with rows that formats stumble over, committed through the real store, and what its tables hold."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from curate.seeds import content_hash, digest
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import DROPS, IMAGES, PROBLEMS, ROLLOUTS, STEP_LABELS
from curate.tables.store import Store
from tests.beds.rows import commit

NASTY = 'ما هي؟ \u202eabc 日本 😀 é\u0301 | `x` <script>alert(1)</script> {{ 7 }} "q"\n---\n\x07\\n'
LONG = "sehr langer Text 😀 " * 20_000


def image(kind: str, shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (shade, 200 - shade, 7)).save(buffer, kind)
    return buffer.getvalue()


_MADE = (("a", "PNG", 1), ("b", "JPEG", 60), ("c", "PNG", 90), ("m", "PNG", 120), ("t", "JPEG", 150), ("d", "PNG", 180))
IMAGE_FILES = {name: image(kind, shade) for name, kind, shade in _MADE}
# name -> (source, role, images, question, choices, gold answer)
PROBLEMS_OF = {
    "one": ("free", "train", "a", f"How many? {NASTY}", ["cat | dog", "naïve 日本"], "B"),
    "none": ("unlicensed", "train", "", "What is 1 + 1? <image1>", [], None),
    "two": ("closed", "train", "bc", "Which of the two?", [], "7"),
    "meta": ("free", "meta", "m", "What is shown?", ["red", "blue"], "A"),
    "test": ("free", "test", "t", "And here?", [], "3"),
    "dropped": ("free", "train", "d", "Again?", [], "3"),
}
LICENCES = {"free": "MIT", "unlicensed": None, "closed": "CC-BY-ND-4.0"}
FIVE = ["Step 1: I look.\n", "Step 2: I see 3 bars | of them.\n\n", "Step 3: So it is B.\nFinal answer: B"]
PLAIN = ["I look.\n\n", f"I see {NASTY}.\n\n", "The answer is 2."]
# problem, steps, outcome, labels as (value, k, m); null: the step has none; no labels at all: null
CHAINS = (
    ("one", FIVE, True, [(0.75, 3, 4), (0.5, 2, 4), (1.0, 0, 0)]),
    ("one", [*FIVE[:2], "Step 3: No idea."], False, [(0.25, 1, 4), (None, 0, 0), (0.0, 0, 0)]),
    ("one", [f"Step 1: {LONG}\n", "Step 2: x.\nFinal answer: A"], False, [(0.1 + 0.2, None, None), (0.0, 0, 0)]),
    ("none", PLAIN, None, [(None, 0, 0), (0.5, 1, 2), (1.0, 0, 0)]),
    ("none", PLAIN, None, [(1.0, 2, 2), (1 / 3, 1, 3), (None, 0, 0)]),
    ("two", FIVE, True, [(1.0, 4, 4), (0.0, 0, 4), (1.0, 0, 0)]),
    ("two", FIVE, None, None),
    ("meta", FIVE, True, None),
    ("meta", ["First, the red one.\n\n", "It is red.\n\nThe answer is A."], True, None),
    ("meta", ["As in step 4, it is blue."], False, None),
    ("meta", FIVE, None, None),
    ("test", FIVE, True, None),
    ("test", [], None, None),
    ("dropped", FIVE, True, [(1.0, 4, 4)] * 3),
    ("gone", FIVE, True, None),
)  # fmt: skip


def problem_id(name: str) -> str:
    return digest("problem", name)


def problem_row(name: str) -> dict:
    source, role, shown, question, choices, answer = PROBLEMS_OF[name]
    return {
        "problem_id": problem_id(name),
        "domain": f"{source}/{role}",
        "role": role,
        "source": source,
        "source_row": name,
        "revision": "v1" if source == "free" else None,
        "licence": LICENCES[source],
        "question": question,
        "choices": choices,
        "answer": answer,
        "accepted": ["seven", NASTY] if name == "two" else [],
        "answer_type": None if answer is None else "choice" if choices else "number",
        "tolerance": 0.05 if name == "two" else None,
        "image_hashes": [content_hash(IMAGE_FILES[each]) for each in shown],
        "truth": None,
    }


def rollout_row(number: int) -> dict:
    name, steps, outcome, _ = CHAINS[number]
    role = PROBLEMS_OF[name][1] if name in PROBLEMS_OF else "train"
    source = PROBLEMS_OF[name][0] if name in PROBLEMS_OF else "free"
    return {
        "rollout_id": f"{problem_id(name)}-{number:03d}",
        "problem_id": problem_id(name),
        "domain": f"{source}/{role}",
        "role": role,
        "reasoning": None,
        "sample_index": number,
        "text": "".join(steps),
        "token_ids": [],
        "steps": steps,
        "step_ends": [],
        "answer": "A" if name == "meta" else None if name == "none" else "B",
        "outcome": outcome,
        "outcome_rule": "choice",
        "gold": None,
        "finish": "stop",
        "mean_logprob": -0.5,
        "prompt_tokens": 3,
        "tokens": 4,
        "seed": 1,
        "policy": "p",
    }


def label_rows(number: int) -> list[dict]:
    rollout, labels = rollout_row(number), CHAINS[number][3] or []
    return [
        {name: rollout[name] for name in ("rollout_id", "problem_id", "domain", "role", "outcome")}
        | {"step_index": step, "mode": "exact", "k": k, "m": m, "value": value, "weight": 1.0, "tokens": 5,
           "standard_error": None if value is None else 0.125, "stopped": m, "truncated": 0, "failed": 0}
        for step, (value, k, m) in enumerate(labels)
    ]  # fmt: skip


def fill(root: Path) -> Store:
    workspace = Store.open(root)
    for source, licence in LICENCES.items():
        rows = [problem_row(name) for name, row in PROBLEMS_OF.items() if row[0] == source]
        partition = workspace.partition(PROBLEMS, source)
        commit(partition, rows)
        config = {"name": source, "kind": "files", "path": "/home/somebody/secret/rows.jsonl", "licence": licence}
        lineage.write(partition, "ingest", config, {}, Ledger("rows", taken=len(rows), out=len(rows)))
    names = [(each, name) for name, row in PROBLEMS_OF.items() for each in row[2]]
    commit(
        workspace.partition(IMAGES, "free"),
        (
        {
            "image_hash": content_hash(IMAGE_FILES[each]), "problem_id": problem_id(name), "bytes": IMAGE_FILES[each],
            "format": "PNG", "width": 12, "height": 9, "perceptual_hash": "0", "orientation": None,
            "has_alpha": False, "note": None,
        }
        for each, name in names
        ),
    )  # fmt: skip
    rollouts = workspace.partition(ROLLOUTS)
    commit(rollouts, map(rollout_row, range(len(CHAINS))))
    policy = {"model": "some/model", "prompt": "free/1", "sampling": {"temperature": 1.0}, "seed": 1}
    lineage.write(
        rollouts, "rollout", policy, {}, Ledger("rollouts", taken=len(CHAINS), out=len(CHAINS)), {"vllm": "0.32.0"}
    )
    labels = workspace.partition(STEP_LABELS)
    commit(labels, (row for number in range(len(CHAINS)) for row in label_rows(number)))
    lineage.write(labels, "label", {"mode": "exact", "most": 4}, {}, Ledger("rollouts", taken=8, out=8))
    commit(
        workspace.partition(DROPS, "dedup"),
        [{"problem_id": problem_id("dropped"), "domain": "free/train", "role": "train", "by": "dedup",
          "reason": "near-duplicate", "against": "x", "against_domain": "y", "against_role": "train",
          "image_distance": 0, "text_similarity": 1.0}]
    )  # fmt: skip
    return workspace
