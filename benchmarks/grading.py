"""Our grading of published responses beside the grades that were published with them.

python benchmarks/grading.py [NAME ...] [--repositories FOLDER] [--show 20] [--file PART_OF_A_NAME]

Each response goes through the same extraction and grading as a rollout's text does, and each disagreement is sorted
into a kind. Repositories are cloned from GitHub into FOLDER (default: a folder in the system's temporary one) unless
they are there already, as OWNER+NAME or OWNER+NAME/repo. NAME is one of gsm8k, tabmwp, mathvista; --mathvision FOLDER
takes MATH-Vision problems (test.jsonl) with responses (responses-*.jsonl). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from curate.graders import NO_ANSWER, assess, infer_type
from curate.graders.base import folded
from curate.graders.choice import read_choice
from curate.graders.number import read_quantity

REPOSITORIES = {"gsm8k": "openai/grade-school-math", "tabmwp": "lupantech/PromptPG", "mathvista": "lupantech/MathVista"}
# Some files were published with code in place of answers, or with nothing but guesses; they hold no responses to read.
NOT_RESPONSES = ("_code", "frequent_guess", "random_guess", "template")


@dataclass
class Response:
    """A published response with its problem and its published grade; `extraction` is what its authors read in it."""

    file: str
    name: str
    text: str
    problem: Problem
    right: bool
    extraction: str | None = None


@dataclass
class Count:
    """What one file came to."""

    responses: int = 0
    right: int = 0
    missed: int = 0
    lenient: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    ours: Counter[str] = field(default_factory=Counter)
    no_answer: int = 0


@dataclass(frozen=True)
class Problem:
    """The part of a row of `problems` that grading goes by."""

    answer: str
    choices: list[str]
    answer_type: str
    tolerance: float | None
    accepted: tuple[str, ...] = ()


def problem(
    answer: str, choices: list[str] | None = None, kind: str | None = None, tolerance: float | None = None
) -> Problem:
    """The part of a row of `problems` that grading goes by."""
    options = list(choices or [])
    kind = "choice" if options else kind or infer_type(answer, options)
    return Problem(answer, options, kind, tolerance)


class Repository:
    """Files of a repository at its newest commit, from a clone that is there or is made now."""

    def __init__(self, name: str, folder: Path) -> None:
        there = folder / name.replace("/", "+")
        self.path = there / "repo" if (there / "repo").is_dir() else there
        if not self.path.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            address = f"https://github.com/{name}"
            done = subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, str(there)])
            if done.returncode:
                sys.exit(
                    f"{address} could not be cloned; put a clone into {there}, or name its parent by --repositories."
                )

    def names(self, under: str) -> list[str]:
        """Paths below a folder."""
        out = subprocess.run(
            ["git", "-C", str(self.path), "ls-tree", "-r", "--name-only", "HEAD", under],
            check=True,
            capture_output=True,
            text=True,
        )
        return out.stdout.split()

    def read(self, path: str) -> str | None:
        """A file's text; None where the clone lacks it."""
        out = subprocess.run(["git", "-C", str(self.path), "show", f"HEAD:{path}"], capture_output=True, text=True)
        return out.stdout if out.returncode == 0 else None


def gsm8k(files: Repository) -> Iterator[Response]:
    """The example solutions of two model sizes, fine-tuned and with a verifier."""
    text = files.read("grade_school_math/data/example_model_solutions.jsonl") or ""
    for number, line in enumerate(text.splitlines()):
        row = json.loads(line)
        gold = row["ground_truth"].rsplit("A: ", 1)[-1].strip()
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            said = row[model]
            yield Response(model, str(number), said["solution"], problem(gold, kind="number"), bool(said["is_correct"]))


def tabmwp(files: Repository) -> Iterator[Response]:
    """GPT-3's answers to the test problems; choices are known for the thousand problems whose file is small enough."""
    known = json.loads(
        files.read("data/tabmwp/problems_test.json") or files.read("data/tabmwp/problems_test1k.json") or "{}"
    )
    for path in files.names("results/gpt3/"):
        rows = json.loads(files.read(path) or "{}").get("results", {})
        for name, row in rows.items():
            if name in known:
                made = problem(row["answer"], known[name]["choices"])
                yield Response(
                    Path(path).stem, name, row["output"], made, bool(row["true_false"]), str(row["prediction"])
                )


def mathvista(files: Repository) -> Iterator[Response]:
    """Answers of models to testmini, graded by an extraction of GPT-4; floats are right to the stated decimals."""
    kinds = {"integer": "number", "float": "number", "list": "expression", "text": None}
    for path in files.names("results/"):
        if "/output_" not in path or any(part in path for part in NOT_RESPONSES):
            continue
        for name, row in json.loads(files.read(path) or "{}").items():
            if not row.get("response") or "true_false" not in row:
                continue
            tolerance = None
            if row["answer_type"] == "float" and row["precision"] is not None and float(row["answer"]):
                tolerance = 0.5 * 10 ** -float(row["precision"]) / abs(float(row["answer"]))
            made = problem(row["answer"], row["choices"], kinds[row["answer_type"]], tolerance)
            yield Response(
                Path(path).stem, name, row["response"], made, bool(row["true_false"]), str(row["extraction"])
            )


def mathvision(folder: Path) -> Iterator[Response]:
    """MATH-Vision's problems and responses in a folder of JSON Lines files."""
    problems = {row["id"]: row for row in map(json.loads, (folder / "test.jsonl").open())}
    for path in sorted(folder.glob("responses-*.jsonl")):
        for row in map(json.loads, path.open()):
            about = problems[row["id"]]
            yield Response(
                path.stem,
                str(row["id"]),
                row["response"],
                problem(about["answer"], about["options"]),
                bool(row["correct"]),
            )


READERS: dict[str, Callable[[Repository], Iterator[Response]]] = {
    "gsm8k": gsm8k,
    "tabmwp": tabmwp,
    "mathvista": mathvista,
}


def kind_of(response: Response, outcome: bool | None, answer: str | None) -> str:
    """What a disagreement is about, where that can be told without reading the text; else "ours"."""
    said = response.extraction
    choices, gold = response.problem.choices, response.problem.answer
    if response.right and said is not None and choices:
        letters = read_choice(said, choices)[0]
        if not letters or letters != read_choice(gold, choices)[0]:
            return "published took the nearest option"
    if response.right and said is not None and not choices and answer is not None:
        theirs, ours = read_quantity(said), read_quantity(answer)
        if theirs is not None and ours is not None and theirs.value == ours.value and outcome is False:
            return "published rounded the answer"
    if said is None:
        return "ours"
    whole = folded(response.text)
    if response.right and choices and outcome is None:
        return "letter and text name different choices"
    if response.right and choices and answer is not None:
        theirs, ours = read_choice(said, choices)[0], read_choice(answer, choices)[0]
        texts = dict(zip("ABCDEFGHIJ", map(folded, choices), strict=False))
        if (
            ours
            and not theirs & ours
            and not any(texts[letter] in whole or f"({letter.lower()})" in whole for letter in theirs)
        ):
            return "published choice is not the one that the text names"
    if response.right and choices and answer is None:
        named = [folded(choice) for choice in choices if re.search(rf"(?<!\w){re.escape(folded(choice))}(?!\w)", whole)]
        theirs = read_choice(said, choices)[0]
        texts = dict(zip("ABCDEFGHIJ", map(folded, choices), strict=False))
        if not any(texts[letter] in named or f"({letter.lower()})" in whole for letter in theirs):
            return "published inferred a choice that the text does not name"
        if len(named) == len(choices):
            return "published took one of the options that the text only lists"
    if response.right and folded(said) and len(said) > 1 and folded(said) not in whole:
        return "published answer is not in the text"
    return "ours"


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose responses."""
    parser.add_argument("names", nargs="*", choices=[[], *READERS], metavar="NAME")
    parser.add_argument("--repositories", type=Path, default=Path(tempfile.gettempdir()) / "curate-grading")
    parser.add_argument("--mathvision", type=Path)
    parser.add_argument("--file", help="only files whose name contains this")


def chosen(options: argparse.Namespace) -> dict[str, Iterator[Response]]:
    """The responses of each name that was asked for; of all repositories where none was."""
    names = options.names or ([] if options.mathvision else list(READERS))
    streams = {name: READERS[name](Repository(REPOSITORIES[name], options.repositories)) for name in names}
    if options.mathvision:
        streams["mathvision"] = mathvision(options.mathvision)
    return {
        name: (each for each in stream if not options.file or options.file in each.file)
        for name, stream in streams.items()
    }


def kind_of_right(response: Response, answer: str | None) -> str:
    """What it is about where ours is right and the published grade is not; else "ours right".

    Either what the publishers extracted has the gold value, or names the gold choice, and was compared as a text, or
    what they extracted is another choice than the one that the text states.
    """
    said, gold, choices = response.extraction, response.problem.answer, response.problem.choices
    if said is None or answer is None:
        return "ours right"
    if choices:
        theirs, wanted = read_choice(said, choices)[0], read_choice(gold, choices)[0]
        if theirs & wanted:
            return "published compared texts"
        options = dict(zip("ABCDEFGHIJ", map(folded, choices), strict=False))
        if not any(options[letter] in folded(answer) for letter in theirs):
            return "published took another option than the text states"
        return "ours right"
    theirs_value, wanted_value = read_quantity(said), read_quantity(gold)
    if theirs_value is not None and wanted_value is not None and theirs_value.value == wanted_value.value:
        return "published compared texts"
    return "ours right"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_sources(parser)
    parser.add_argument("--show", type=int, default=0, help="disagreements to print of each file")
    options = parser.parse_args()
    streams = chosen(options)
    counts: dict[tuple[str, str], Count] = defaultdict(Count)
    shown: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, stream in streams.items():
        for response in stream:
            found = assess(response.text, response.problem)
            count = counts[name, response.file]
            count.responses += 1
            count.right += response.right
            count.no_answer += found.rule == NO_ANSWER
            if bool(found.outcome) == response.right:
                continue
            if response.right:
                kind = kind_of(response, found.outcome, found.answer)
            else:
                kind = kind_of_right(response, found.answer)
            if kind == "ours":
                count.missed += 1
            elif kind == "ours right":
                count.accepted += 1
            else:
                count.lenient[kind] += 1
            count.ours[found.rule] += 1
            shown[name, response.file].append(
                f"  {response.name} [{kind}] gold {response.problem.answer!r} {response.problem.choices or ''}: "
                f"read {found.answer!r} ({found.rule}), ours {found.outcome}, published {response.right} "
                f"({response.extraction!r}); said {response.text[-220:]!r}"
            )
    for (name, file), count in counts.items():
        wrong = count.responses - count.right
        print(
            f"{name}/{file}: {count.responses} responses, {count.right} published right; missed {count.missed} "
            f"({100 * count.missed / max(count.right, 1):.1f} %), right here though published wrong {count.accepted} "
            f"({100 * count.accepted / max(wrong, 1):.1f} %), no answer {count.no_answer}, left to the"
            f" publishers {dict(count.lenient)}"
        )
        lines = shown[name, file]
        for line in random.Random(0).sample(lines, min(options.show, len(lines))):
            print(line)
    total = {
        name: {
            "responses": sum(count.responses for (each, _), count in counts.items() if each == name),
            "published_right": (right := sum(count.right for (each, _), count in counts.items() if each == name)),
            "missed": (missed := sum(count.missed for (each, _), count in counts.items() if each == name)),
            "missed_share": round(missed / max(right, 1), 4),
            "published_wrong": (
                wrong := sum(count.responses - count.right for (each, _), count in counts.items() if each == name)
            ),
            "right_here": (accepted := sum(count.accepted for (each, _), count in counts.items() if each == name)),
            "right_here_share": round(accepted / max(wrong, 1), 4),
            "lenient": dict(sum((count.lenient for (each, _), count in counts.items() if each == name), Counter())),
        }
        for name in streams
    }
    print(json.dumps(total))


if __name__ == "__main__":
    main()
