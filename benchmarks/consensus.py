"""What consensus with a judge does to step labels, where the truth is known.

python benchmarks/consensus.py [--problems 150] [--false-alarm 0.1] [--miss 0.1]

In two of the simulated engine's worlds, four rollouts a problem, pooled labels of two completions a step, and a judge
of known error rates. A label calls a step right when it is above 1/2, and so does the truth, the prefix's exact value.
Precision is the share of steps called right that are, with all labels and with those that the judge agrees with;
accuracy the share of all labels, right and wrong, that are true. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from curate import pipeline
from curate.engines import worlds
from curate.runtime.reporter import Silent
from curate.tables.schema import COMPLETIONS, EXAMPLES, JUDGEMENTS
from curate.tables.store import Store
from curate.text import prompts

WORLDS = ("decisive", "drift")


def recipe(folder: Path, world: str, problems: int, judge: dict, consensus: dict) -> Path:
    """A recipe on `problems` problems of a world."""
    lines = [{"question": f"Problem {n} [gold={n}]", "answer": str(n)} for n in range(problems)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = {"kind": "simulated", "model": "world", "args": {"world": world, "steps": None}}
    tree = {
        "ingest": {"sources": [{"kind": "files", "name": "rows", "path": "rows.jsonl"}]},
        "rollout": {"engine": engine, "samples": 4, "prompt": "free", "sampling": {"max_tokens": 2000}},
        "label": {},
        "judge": {"engine": engine | {"model": "judge", "args": judge}},
        "shard": {"consensus": {"threshold": 0.5} | consensus},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return path


def known(workspace: Store, world: str) -> list[tuple[bool, bool, bool]]:
    """(label says right, it is right, kept) of each labelled step but the last ones, whose value is an outcome."""
    found = []
    for row in workspace.read(EXAMPLES).to_pylist():
        law = worlds.world(prompts.render("free", row["question"], row["choices"]), world, None)
        for step, value in enumerate(row["values"][:-1]):
            right = law.value_of("".join(row["steps"][: step + 1])) > 0.5
            found.append((value > 0.5, right, row["masks"][step] is None))
    return found


def measured(world: str, problems: int, judge: dict, consensus: dict) -> dict[str, float]:
    """Figures of one world."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Store.open(Path(folder) / "w")
        path = recipe(Path(folder), world, problems, judge, consensus)
        # All labels, too: of chains that are masked as a whole as well.
        pipeline.run(pipeline.load(path, ["shard.consensus=null"]), workspace, Silent())
        every = known(workspace, world)
        pipeline.run(pipeline.load(path), workspace, Silent(), ["shard"])
        kept = [each for each in known(workspace, world) if each[2]]
        tokens = [sum(workspace.read(table, ["tokens"])["tokens"].to_pylist()) for table in (COMPLETIONS, JUDGEMENTS)]

    def share(rows: list[bool]) -> float:
        return round(sum(rows) / len(rows), 4)

    return {
        "steps": len(every),
        "kept": round(len(kept) / len(every), 4),
        "precision_all": share([right for said, right, _ in every if said]),
        "precision_kept": share([right for said, right, _ in kept if said]),
        "accuracy_all": share([said == right for said, right, _ in every]),
        "accuracy_kept": share([said == right for said, right, _ in kept]),
        "label_tokens": tokens[0],
        "judge_tokens": tokens[1],
    }


def main() -> None:
    """Print a line a world, and then all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=150)
    parser.add_argument("--false-alarm", type=float, default=0.1)
    parser.add_argument("--miss", type=float, default=0.1)
    given = parser.parse_args()
    judge = {"false_alarm": given.false_alarm, "miss": given.miss}
    figures = {}
    for world in WORLDS:
        for mask in ("steps", "chains"):
            figures[f"{world}, {mask}"] = measured(world, given.problems, judge, {"mask": mask})
            print(f"{world}, {mask}: {figures[f'{world}, {mask}']}")
    print(json.dumps({"judge": judge, "problems": given.problems, "figures": figures}))


if __name__ == "__main__":
    main()
