"""A synthetic workspace with every table that the report reads, committed through the real store."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

from curate.seeds import content_hash, digest
from curate.tables import lineage
from curate.tables.lineage import Ledger
from curate.tables.schema import COMPLETIONS, IMAGES, PROBLEMS, REJECTS, ROLLOUTS, STEP_LABELS, STEP_SCORES, UPDATES
from curate.tables.store import Store
from tests.beds.rows import commit

NASTY = '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1"> & | ` {{ 7 * 7 }}'
RIGHT_TO_LEFT = "ما هي قيمة العمود الأحمر؟ \u202eabc"
VERY_LONG = "verylongword" * 400

# domain -> (final weight, share of right rollouts, planted defect)
DOMAINS = {
    "bars_read": (1.42, 0.62, None),
    "dial_read": (1.35, 0.71, None),
    "grid_distance": (1.30, 0.48, None),
    "table_lookup": (1.24, 0.66, None),
    "dots_count": (1.02, 0.36, None),
    "needles": (1.00, 0.03, None),
    "rectangle_perimeter": (0.62, 0.21, "wrong-rule"),
    "bars_sum": (0.55, 0.18, "wrong-gold"),
    "dots_more": (0.50, 0.44, "swapped-image"),
}


def make(root: Path, seeds: int = 3, nulls: int = 5, train: int = 12, test: int = 6, nasty: bool = True) -> Store:
    """The whole workspace."""
    workspace = Store.open(root)
    for domain, (_, accuracy, defect) in DOMAINS.items():
        add_source(workspace, domain, domain, "train", train, accuracy, defect)
    for domain in ("bars_read", "dial_read", "table_lookup"):
        add_source(workspace, f"test_{domain}", domain, "test", test, DOMAINS[domain][1], None, samples=8)
    if nasty:
        add_source(workspace, "odd", NASTY, "train", 3, 0.5, None, texts=(NASTY, RIGHT_TO_LEFT, VERY_LONG))
    domains = {name: weight for name, (weight, _, _) in DOMAINS.items()} | ({NASTY: 1.0} if nasty else {})
    for seed in range(seeds):
        add_run(workspace, f"seed-{seed}", seed, False, domains)
    for seed in range(nulls):
        add_run(workspace, f"null-{seed}", seed, True, dict.fromkeys(domains, 1.0))
    for seed in range(seeds):
        add_scores(workspace, f"seed-{seed}")
    return workspace


def drawing(rng: random.Random) -> bytes:
    image = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(image)
    for bar, colour in enumerate(("red", "blue", "green", "orange")):
        height = rng.randrange(1, 10) * 8
        draw.rectangle((8 + 22 * bar, 88 - height, 22 + 22 * bar, 88), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def image_row(data: bytes, problem_id: str, kind: str = "PNG", size: tuple[int, int] = (96, 96)) -> dict:
    return {
        "image_hash": content_hash(data),
        "problem_id": problem_id,
        "bytes": data,
        "format": kind,
        "width": size[0],
        "height": size[1],
        "perceptual_hash": "0",
        "orientation": None,
        "has_alpha": False,
        "note": None,
    }


def add_source(
    workspace: Store,
    source: str,
    domain: str,
    role: str,
    count: int,
    accuracy: float,
    defect: str | None,
    samples: int = 2,
    texts: tuple[str, ...] = (),
) -> None:
    rng = random.Random(source)
    problems, images, rollouts, labels, completions = [], {}, [], [], []
    for number in range(count):
        problem_id = digest(source, number)
        row = image_row(drawing(rng), problem_id)
        images.setdefault(row["image_hash"], row)
        text = texts[number % len(texts)] if texts else "What is the value of the red bar?"
        gold = str(rng.randrange(1, 10))
        problems.append(
            {
                "problem_id": problem_id,
                "domain": domain,
                "role": role,
                "source": source,
                "source_row": str(number),
                "revision": None,
                "licence": "Apache-2.0",
                "question": text,
                "choices": [],
                "answer": gold,
                "accepted": [],
                "answer_type": "number",
                "tolerance": None,
                "image_hashes": [row["image_hash"]],
                "truth": None,
            }
        )
        for sample in range(samples):
            right = rng.random() < accuracy
            odd = texts[(number + 1) % len(texts)] if texts else None
            made = rollout_row(problem_id, domain, role, sample, gold, right, rng, odd)
            rollouts.append(made)
            if role == "train":
                labels += label_rows(made, rng)
                completions += completion_rows(made, texts)
    partition = workspace.partition(PROBLEMS, source)
    commit(partition, problems)
    commit(workspace.partition(IMAGES, source), images.values())
    rejects = [reject_row(source, None if texts else domain)]
    commit(workspace.partition(REJECTS, source), rejects)
    main, targets = workspace.partition(ROLLOUTS), workspace.partition(STEP_LABELS)
    commit(main, rollouts)
    commit(targets, labels)
    commit(workspace.partition(COMPLETIONS), completions)
    config = {"name": source, "role": role, "domain": None, "defect": defect}
    ledger = Ledger("rows", taken=count + 1, out=count, rejected={"no-answer": 1})
    lineage.write(partition, "ingest", config, {}, ledger)


def reject_row(source: str, domain: str | None) -> dict:
    return {
        "stage": "ingest",
        "source": source,
        "source_row": f"{source}#x",
        "problem_id": None,
        "domain": domain,
        "rollout_id": None,
        "step_index": None,
        "reason": "no-answer",
        "detail": "null",
    }


def rollout_row(
    problem_id: str,
    domain: str,
    role: str,
    sample: int,
    gold: str,
    right: bool | None,
    rng: random.Random,
    odd: str | None = None,
) -> dict:
    answer = gold if right else str(rng.randrange(10, 14))
    steps = [
        "Step 1: Find the value of the red bar.\n",
        f"Step 2: {odd or f'The red bar reaches {answer}.'}\n",
        "Step 3: No other bar matters.\n",
        f"Step 4: The answer is {answer}.\nFinal answer: {answer}",
    ]
    return {
        "rollout_id": f"{problem_id}-{sample:03d}",
        "problem_id": problem_id,
        "domain": domain,
        "role": role,
        "reasoning": None,
        "sample_index": sample,
        "text": "".join(steps),
        "token_ids": [1, 2, 3],
        "steps": steps,
        "step_ends": [1, 2, 3, 3],
        "answer": answer,
        "outcome": right,
        "outcome_rule": "number",
        "gold": None,
        "finish": "length" if rng.random() < 0.05 else "stop",
        "mean_logprob": -0.4,
        "prompt_tokens": 40,
        "tokens": 60,
        "seed": 1,
        "policy": "p",
    }


def label_rows(rollout: dict, rng: random.Random, m: int = 4) -> list[dict]:
    rows = []
    for step in range(len(rollout["steps"])):
        last = step == len(rollout["steps"]) - 1
        k = sum(rng.random() < (0.85 if rollout["outcome"] else 0.7 - 0.2 * step) for _ in range(m))
        q = (k + 0.5) / (m + 1)
        rows.append(
            {
                "rollout_id": rollout["rollout_id"],
                "problem_id": rollout["problem_id"],
                "domain": rollout["domain"],
                "role": rollout["role"],
                "step_index": step,
                "mode": "exact",
                "k": 0 if last else k,
                "m": 0 if last else m,
                "outcome": rollout["outcome"],
                "value": float(rollout["outcome"]) if last else k / m,
                "standard_error": 0.0 if last else math.sqrt(q * (1 - q) / m),
                "weight": 1.0,
                "tokens": 0 if last else 80,
                "stopped": 0 if last else m,
                "truncated": 0,
                "failed": 0,
            }
        )
    return rows


def completion_rows(rollout: dict, texts: tuple[str, ...] = (), count: int = 2) -> list[dict]:
    """So many after every step but the last; half of them right."""
    return [
        {
            "rollout_id": rollout["rollout_id"],
            "problem_id": rollout["problem_id"],
            "step_index": step,
            "reasoning": None,
            "sample_index": sample,
            "text": f"So it goes on {step}.{sample}: {texts[sample % len(texts)] if texts else 'Final answer: 7'}",
            "token_ids": [1, 2],
            "answer": "7",
            "outcome": sample % 2 == 0,
            "outcome_rule": "number",
            "gold": None,
            "finish": "stop",
            "prompt_tokens": 50,
            "tokens": 30,
            "seed": 1,
            "policy": "p",
        }
        for step in range(len(rollout["steps"]) - 1)
        for sample in range(count)
    ]


def add_run(
    workspace: Store,
    run: str,
    seed: int,
    null: bool,
    final: dict[str, float],
    updates: int = 40,
    noise: float = 0.03,
) -> None:
    """A run whose weights walk from 1 to `final` with a little noise; null runs wander instead."""
    rng, rows = random.Random(run), []
    offsets = {domain: rng.gauss(0, 0.03 if null else noise) for domain in final}
    for update in range(updates + 1):
        share = update / updates
        for domain, weight in final.items():
            value = 1 + share * (weight - 1) + share * offsets[domain] + (rng.gauss(0, 0.004) if update else 0)
            rows.append(
                {
                    "run": run,
                    "seed": seed,
                    "null_control": null,
                    "update": update,
                    "step": 20 + 2 * update if update else 0,
                    "domain": domain,
                    "upper_rule": "adam",
                    "weight": value,
                    "raw": value - 1,
                    "dot": 0.1 * (weight - 1) + 0.05 * (-1) ** update if update else None,
                    "t": (0.6 * (weight - 1) + offsets[domain]) * 10 * math.sqrt(update) if update > 1 else None,
                    "rows": 6,
                    "train_loss": None if not update else 0.25 - 0.12 * share * weight + rng.gauss(0, 0.006),
                    "meta_loss": None if not update else 0.28 - 0.1 * share + rng.gauss(0, 0.01),
                    "cosine": 0.5 if update > 1 else None,
                }
            )
    partition = workspace.partition(UPDATES, run)
    commit(partition, rows)
    lineage.write(partition, "train", {"mode": "domain"}, {}, Ledger("examples", taken=10, out=10))


def add_scores(workspace: Store, run: str) -> None:
    """Scores that lean towards right rollouts."""
    rng, rows = random.Random(f"scores {run}"), []
    for rollout in workspace.read(ROLLOUTS, ["rollout_id", "problem_id", "role", "outcome", "steps"]).to_pylist():
        if rollout["role"] == "test":
            for step in range(len(rollout["steps"])):
                logit = rng.gauss(0.9 if rollout["outcome"] else -0.5, 1.0)
                rows.append(score_row(run, rollout, step, 1 / (1 + math.exp(-logit))))
    commit(workspace.partition(STEP_SCORES, run), rows)


def score_row(run: str, rollout: dict, step: int, score: float | None) -> dict:
    return {
        "run": run,
        "rollout_id": rollout["rollout_id"],
        "problem_id": rollout["problem_id"],
        "step_index": step,
        "score": score,
    }
