"""How the report's page does with 10,000 chains, in headless Chromium: first render, filters, memory.

    python benchmarks/page.py [--chains 10000] [--folder FOLDER] [--embedded]

A synthetic workspace of that many rollouts (of the shape of real ones: 8 steps of 150 characters, 4 completions a step,
an image a problem of 4 rollouts) is reported on, and its page opened from disk: once as it is, its chains in files
beside it, and once without any browser of chains, to hold against. `--embedded` opens a third page that holds all
chains itself, as pages did before there was a browser. The last line is one JSON object; seconds, bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw

from curate.seeds import content_hash, digest
from curate.tables.rows import UpdateRow, whole
from curate.tables.schema import COMPLETIONS, IMAGES, PROBLEMS, ROLLOUTS, STEP_LABELS, STEP_SCORES, UPDATES
from curate.tables.store import Store
from prm.render import browse, write
from prm.reporting import build
from prm.sections import ReportConfig

STEPS, COMPLETED, SAMPLES, RUNS = 8, 4, 4, ("seed-0", "seed-1", "seed-2")
DOMAINS = tuple(f"domain_{number:02d}" for number in range(15))
WORDS = [
    "the",
    "red",
    "bar",
    "of",
    "chart",
    "panel",
    "value",
    "reaches",
    "axis",
    "label",
    "sum",
    "length",
    "angle",
    "area",
    "between",
    "third",
    "second",
    "equals",
]


def words(rng: random.Random, characters: int) -> str:
    text = ""
    while len(text) < characters:
        text += rng.choice(WORDS) + " "
    return text[:characters]


def image_row(rng: random.Random, problem_id: str) -> dict:
    image = Image.new("RGB", (224, 224), "white")
    draw = ImageDraw.Draw(image)
    for bar in range(8):
        draw.rectangle(
            (8 + 26 * bar, 216 - rng.randrange(200), 28 + 26 * bar, 216), fill=rng.choice(("red", "blue", "green"))
        )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    facts = {"format": "PNG", "width": 224, "height": 224, "perceptual_hash": "0", "orientation": None}
    data = buffer.getvalue()
    more = {"has_alpha": False, "note": None}
    return {"image_hash": content_hash(data), "problem_id": problem_id, "bytes": data} | facts | more


def chain(rng: random.Random, problem: dict, sample: int) -> dict:
    steps = [f"Step {step + 1}: {words(rng, 150)}\n" for step in range(STEPS)]
    return {
        **{key: problem[key] for key in ("problem_id", "domain", "role")},
        "rollout_id": f"{problem['problem_id']}-{sample:03d}",
        "sample_index": sample,
        "text": "".join(steps),
        "token_ids": [],
        "steps": steps,
        "step_ends": [],
        "answer": "3",
        "outcome": rng.random() < 0.5,
        "outcome_rule": "number",
        "gold": None,
        "finish": "stop",
        "mean_logprob": None,
        "prompt_tokens": 300,
        "tokens": 400,
        "seed": 1,
        "policy": "p",
    }


def rows_of(rng: random.Random, rollout: dict) -> tuple[list[dict], list[dict], list[dict]]:
    """Labels, completions, scores."""
    name = {key: rollout[key] for key in ("rollout_id", "problem_id")}
    labels, completions, scores = [], [], []
    for step in range(STEPS):
        k, last = rng.randrange(COMPLETED + 1), step == STEPS - 1
        counts = {"k": 0, "m": 0, "value": float(rollout["outcome"]), "standard_error": 0.0}
        if not last:
            counts = {"k": k, "m": COMPLETED, "value": k / COMPLETED, "standard_error": 0.2}
        kinds = {"mode": "exact", "outcome": rollout["outcome"], "weight": 1.0, "tokens": 0}
        kinds |= {"stopped": None, "truncated": None, "failed": None}
        place = name | {"step_index": step}
        labels.append(place | {"domain": rollout["domain"], "role": rollout["role"]} | kinds | counts)
        for sample in range(0 if last else COMPLETED):
            text = {"text": words(rng, 300), "token_ids": [], "answer": "3", "outcome": sample < k}
            ends = {
                "outcome_rule": "number",
                "gold": None,
                "finish": "stop",
                "prompt_tokens": 1,
                "tokens": 80,
                "seed": 1,
                "policy": "p",
            }
            completions.append(place | {"sample_index": sample} | text | ends)
        scores += [place | {"run": run, "score": rng.random()} for run in RUNS]
    return labels, completions, scores


def fill(workspace: Store, count: int) -> None:
    rng, problems, images, rollouts = random.Random(1), [], {}, []
    tables: tuple[list[dict], list[dict], list[dict]] = ([], [], [])
    for number in range(-(-count // SAMPLES)):
        identity = digest("page", number)
        image = image_row(rng, identity)
        images[image["image_hash"]] = image
        problem = {
            "problem_id": identity,
            "domain": DOMAINS[number % len(DOMAINS)],
            "role": "train",
            "source": "s",
            "source_row": str(number),
            "revision": None,
            "licence": None,
            "question": words(rng, 200),
            "choices": [],
            "answer": "3",
            "accepted": [],
            "answer_type": "number",
            "tolerance": None,
            "image_hashes": [image["image_hash"]],
            "truth": None,
        }
        problems.append(problem)
        for sample in range(min(SAMPLES, count - len(rollouts))):
            rollouts.append(chain(rng, problem, sample))
            for table, rows in zip(tables, rows_of(rng, rollouts[-1]), strict=True):
                table.extend(rows)
    every = zip((PROBLEMS, IMAGES, ROLLOUTS, STEP_LABELS, COMPLETIONS, STEP_SCORES),
                (problems, images.values(), rollouts, *tables), strict=True)  # fmt: skip
    for table, rows in every:
        workspace.partition(table).commit_all(whole(table)(**row) for row in rows)
    workspace.partition(UPDATES).commit_all(UpdateRow(**row) for row in weights(rng))


def weights(rng: random.Random) -> list[dict]:
    """Five runs and five null runs of 100 updates, so that the charts have what they have in earnest."""
    return [
        {
            "run": f"{kind}-{seed}",
            "seed": seed,
            "null_control": kind == "null",
            "update": update,
            "step": update,
            "domain": domain,
            "upper_rule": "adam",
            "weight": rng.lognormvariate(0, 0.2),
            "raw": None,
            "dot": rng.gauss(0, 1),
            "t": rng.gauss(0, 1),
            "rows": 1,
            "train_loss": 0.2,
            "meta_loss": 0.2,
            "cosine": 0.1,
        }
        for kind in ("seed", "null")
        for seed in range(5)
        for update in range(100)
        for domain in DOMAINS
    ]


# Seconds from an input to the list as painted after it.
CHANGED = """([id, value, event]) => new Promise((done) => {
  const field = document.getElementById(id), list = document.getElementById("browse-list"), began = performance.now();
  new MutationObserver((_, self) => {
    self.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - began) / 1000)));
  }).observe(list, { childList: true });
  field.value = value;
  field.dispatchEvent(new Event(event, { bubbles: true }));
})"""
FILTERS = (("browse-domain", "3", "change"), ("browse-outcome", "wrong", "change"), ("browse-drop", "0.5", "input"),
           ("browse-order", "drop", "change"), ("browse-domain", "", "change"), ("browse-outcome", "", "change"),
           ("browse-drop", "", "input"), ("browse-order", "", "change"))  # fmt: skip
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"


def heap(tab) -> int:
    """Bytes that the page's script holds after its garbage was collected."""
    session = tab.context.new_cdp_session(tab)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    return next(
        int(one["value"])
        for one in session.send("Performance.getMetrics")["metrics"]
        if one["name"] == "JSHeapUsedSize"
    )


def opened(browser, path: Path, state: str | None = None) -> tuple[object, dict[str, float]]:
    """The page, and how long it took; `state` of its browser of chains is waited for."""
    tab, began = browser.new_page(viewport={"width": 1280, "height": 900}), time.perf_counter()
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=120_000)
    ready = time.perf_counter() - began
    if state:
        tab.wait_for_selector(f"body[data-browse={state}]")
    every = time.perf_counter() - began
    return tab, {"first_paint": tab.evaluate(PAINT), "charts": ready, "all": every, "heap": heap(tab)}


def measured(browser, path: Path) -> dict[str, float | dict[str, float]]:
    tab, found = opened(browser, path, "ready")
    filters = [tab.evaluate(CHANGED, change) for _ in range(5) for change in FILTERS]
    first = tab.evaluate(CHANGED, ["browse-text", "panel value", "input"])
    searches = [
        tab.evaluate(CHANGED, ["browse-text", text, "input"]) for text in ("red bar", "angle", "axis", "zzz", "bar")
    ]
    began = time.perf_counter()
    tab.locator("#browse-list summary").first.click()
    tab.locator("#browse-list table.steps").first.wait_for()
    chain_seconds, searched = time.perf_counter() - began, heap(tab)
    for place in range(1, 25):
        tab.locator("#browse-list summary").nth(place).click()
    tab.locator("#browse-list table.steps").nth(24).wait_for()
    return found | {
        "filter_median": statistics.median(filters),
        "filter_worst": max(filters),
        "first_search": first,
        "search_median": statistics.median(searches),
        "open_chain": chain_seconds,
        "heap_after_search": searched,
        "heap_after_25_chains": heap(tab),
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--embedded", action="store_true", help="open a page that holds all chains itself, too")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        workspace = Store.open(root / "w")
        if not workspace.files(ROLLOUTS):
            fill(workspace, options.chains)
        config = ReportConfig(browse=options.chains)
        began = time.perf_counter()
        chains = browse.beside(workspace, config)
        path = write.write_report(build.build(workspace, config), root / "files", chains=chains)["html"]
        result: dict[str, object] = {"chains": options.chains, "written_in": time.perf_counter() - began}
        result |= {"page_bytes": path.stat().st_size, "beside_bytes": size(path.parent / browse.FOLDER)}
        plain = write.write_report(build.build(workspace, config), root / "plain")["html"]
        with sync_playwright() as playwright:
            rights = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=[*rights, "--disable-gpu"]
            )
            opened(browser, plain)
            result["plain"] = opened(browser, plain)[1]
            result["files"] = measured(browser, path)
            if options.embedded:
                whole = build.build(workspace, ReportConfig(chains=options.chains))
                result["embedded"] = opened(browser, write.write_report(whole, root / "whole")["html"])[1]
            result["ratio"] = result["files"]["charts"] / result["plain"]["charts"]
            browser.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
