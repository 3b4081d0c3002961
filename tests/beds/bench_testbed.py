"""Small benchmarks of exactly the published forms, with random labels and scores; and their scorers, written anew from
their definitions, which read the files that `prm eval` writes.

Forms: QwenLM/ProcessBench README; hub card of OpenGVLab/VisualProcessBench; docs/data_format.md of ssmisya/PRMBench.
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

from PIL import Image

from prm.bench import read
from prm.bench.suites.base import ScoredRollout
from prm.bench.suites.catalog import BENCHMARKS

# Half of them on the threshold 0.5 or beside it: ties must fall as the scorers have them.
SCORES = (0.1, 0.3, 0.5, 0.5, 0.5000001, 0.7, 0.9)
KINDS = (
    *("redundency", "circular", "counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    *("missing_condition", "deception", "multi_solutions"),
)


def texts(rng: random.Random, least: int = 1) -> list[str]:
    return [f"Step {place}: add {rng.randrange(90)}.\n\n      " for place in range(rng.randint(least, 5))]


def processbench_rows(rng: random.Random, count: int, subset: str) -> list[dict]:
    rows = []
    for index in range(count):
        steps = texts(rng)
        rows.append(
            {
                "id": f"{subset}-{index}",
                "generator": rng.choice(["Qwen2-7B-Instruct", "Llama-3.1-8B-Instruct"]),
                # Several generators solve the same problem.
                "problem": f"{subset}: what is {index // 2} + 1?",
                "steps": steps,
                "final_answer_correct": rng.random() < 0.5,
                "label": rng.choice([-1, *range(len(steps))]),
            }
        )
    return rows


def visualprocessbench_rows(rng: random.Random, count: int, images: Path | None = None) -> list[dict]:
    rows = []
    for index in range(count):
        steps = texts(rng)
        name = f"images/{index}.png"
        if images is not None:
            image(images / name, index)
        rows.append(
            {
                "image": [name],
                "question": f"What is the value of bar {index // 2}?",
                "answer": "3",
                "response": {"steps": steps, "process_correctness": [rng.choice([1, 1, 0, -1]) for _ in steps]},
                "policy_model": "GPT-4o",
                "data_source": rng.choice(["MMMU", "MathVision", "WeMath"]),
            }
        )
    return rows


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade % 256, 80, 120)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def prmbench_rows(rng: random.Random, problems: int, kinds: tuple[str, ...] = KINDS) -> list[dict]:
    rows = []
    for index in range(problems):
        original = texts(rng, 2)
        for kind in kinds:
            steps = texts(rng, 2)
            # Beyond the last step, as in a hundred of the published rows.
            wrong = [place for place in range(1, len(steps) + 2) if rng.random() < 0.4]
            rows.append(
                {
                    "original_question": f"What is {index} + 1?",
                    "modified_question": f"What is {index} + 2?",
                    "original_process": original,
                    "modified_process": steps,
                    "modified_steps": wrong,
                    "error_steps": [] if kind == "multi_solutions" else wrong,
                    "reason": "planted",
                    "idx": f"prm_test_p1_{index}",
                    "question": f"What is {index} + 1?",
                    "classification": kind,
                }
            )
    return rows


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored_chains(
    name: str, path: Path, rng: random.Random, missing: float = 0.2, levels=SCORES
) -> list[ScoredRollout]:
    """The chains of a file by the real reader, with random scores; some chains have none, some steps have none."""
    found = []
    for chain in read.load(BENCHMARKS[name], str(path)).chains:
        if rng.random() < missing:
            found.append(ScoredRollout(chain, (None,) * len(chain.steps), "too-long"))
            continue
        scores = [rng.choice(levels) for _ in chain.steps]
        if rng.random() < missing / 2:
            scores[rng.randrange(len(scores))] = None
        found.append(ScoredRollout(chain, tuple(scores)))
    return found


# --- the scorers -----------------------------------------------------------------------------------------------------


def visualprocessbench_scorer(rows: list[dict]) -> dict[str, float]:
    """As VL_PRMBenchmark.evaluate_PRM counts (1 and -1, 0 passed over) and divides, for each source and pooled; rows
    with a missing prediction left out. Overall: mean of the sources weighted by steps, as Balanced-Info-MPRM has it.
    """
    counts: dict[str, list[int]] = {}
    for row in rows:
        if None in row["prediction"]:
            continue
        for truth, said in zip(row["response"]["process_correctness"], row["prediction"], strict=True):
            for name in (row["data_source"], "pooled"):
                cell = counts.setdefault(name, [0, 0, 0, 0])
                if (truth, said) in ((1, 1), (-1, -1), (-1, 1), (1, -1)):
                    cell[((1, 1), (-1, -1), (-1, 1), (1, -1)).index((truth, said))] += 1
    macro = {}
    for name, (tp, tn, fp, fn) in counts.items():
        right = harmonic_or_none(tp, tp + fp, tp + fn)
        wrong = harmonic_or_none(tn, tn + fn, tn + fp)
        macro[name] = None if right is None or wrong is None else (right + wrong) / 2
    sizes = {name: sum(cell) for name, cell in counts.items() if name != "pooled" and sum(cell)}
    parts = [(macro[name], size) for name, size in sizes.items()]
    nothing = not parts or any(value is None for value, _ in parts)
    overall = None if nothing else sum(value * size for value, size in parts) / sum(sizes.values())
    return macro | {"overall": overall}


def harmonic_or_none(hits: int, said: int, true: int) -> float | None:
    if said == 0 and true == 0:
        return None
    precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def processbench_scorer(folder: Path, subset: str) -> tuple[float, float, float]:
    """As run_eval.py: means of `match` of the two files, and 2 a b / (a + b)."""
    accuracies = []
    for kind in ("error", "correct"):
        rows = [json.loads(line) for line in (folder / f"{subset}_{kind}.jsonl").read_text().splitlines()]
        assert all((row["label"] == -1) == (kind == "correct") for row in rows)
        assert all(row["match"] == (row["prediction"] == row["label"]) for row in rows)
        accuracies.append(sum(row["match"] for row in rows) / len(rows))
    error, correct = accuracies
    return error, correct, 2 * error * correct / (error + correct) if error + correct else 0.0


def prmbench_scorer(records: list[dict], lines: list[dict]) -> dict:
    """As the task's evaluate_function and the display's get_prmscore_from_current_res_dict."""
    truth: dict[str, tuple[str, list[int]]] = {}
    for record in records:
        if record["classification"] == "redundency":
            truth.setdefault(f"correct_{record['idx']}", ("correct", []))
        key = f"{record['classification']}_{record['idx']}"
        truth.setdefault(key, (record["classification"], record["error_steps"]))
    matrices: dict[str, dict[str, int]] = {}
    for line in lines:
        result = line["results"]
        kind, wrong = truth[result["idx"]]
        if result.get("validity") is False:
            continue
        for place, label in enumerate(result["scores"]["step_level_validity_labels"], start=1):
            cell = ("FP" if label else "TN") if place in wrong else ("TP" if label else "FN")
            for name in {kind, *({"total"} if kind != "correct" else ())}:
                matrices.setdefault(name, dict.fromkeys(("TP", "FP", "TN", "FN"), 0))[cell] += 1
    return {name: prmscore(matrix, name) for name, matrix in matrices.items()}


def prmscore(matrix: dict[str, int], name: str) -> float:
    tp, fp, tn, fn = (matrix[cell] for cell in ("TP", "FP", "TN", "FN"))
    positive, negative = minus_one_f1(tp, tp + fp, tp + fn), minus_one_f1(tn, tn + fn, tn + fp)
    value = positive if name == "multi_solutions" else positive * 0.5 + negative * 0.5
    return value if value > 0 else 0


def minus_one_f1(hits: int, said: int, true: int) -> float:
    precision = hits / said if said != 0 else -1
    recall = hits / true if true != 0 else -1
    return 2 * precision * recall / (precision + recall) if (precision + recall) != 0 else -1
