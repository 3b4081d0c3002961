"""Our grading of published responses beside the grades that were published with them.

python benchmarks/grading.py FOLDER

FOLDER holds MATH-Vision problems (test.jsonl: id, answer, options) and responses with grades
(responses-*.jsonl: id, response, correct). Each response goes through `extract` and `grade` as a rollout's text does.
Every disagreement is printed; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from curate.answers import extract, grade, infer_type


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    problems = {row["id"]: row for row in map(json.loads, (folder / "test.jsonl").open())}
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("responses-*.jsonl")):
        for row in map(json.loads, path.open()):
            problem = problems[row["id"]]
            kind = infer_type(problem["answer"], problem["options"])
            answer = extract(row["response"])
            verdict = grade(answer, problem["answer"], kind, problem["options"])
            agree = verdict.outcome == row["correct"]
            counts["agree" if agree else "disagree"] += 1
            if not agree:
                print(
                    f"{row['id']}: gold {problem['answer']!r} ({kind}), read {answer!r}, ours {verdict.outcome} "
                    f"({verdict.rule}), published {row['correct']}"
                )
    total = counts.total()
    print(json.dumps({"responses": total, "agree": counts["agree"], "share": round(counts["agree"] / total, 4)}))


if __name__ == "__main__":
    main()
