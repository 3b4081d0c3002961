"""The chains that the page's browser shows, as the files that it loads on demand.

    report-data/index.js                    one row a chain: what filters, order and summaries need
    report-data/chains-0000.js              the whole of `CHUNK` chains
    report-data/completions-0000.js         completions of the same chains
    report-data/search-000.js               all texts of `GROUP` chains, for searching
    report-data/images/<image hash>         images

Each .js file calls `curateData(name, stamp, value)`: a page that was opened from disk may load scripts, nothing else.
The same bytes are written beside the page (`write`) or made when they are asked for (`prm.serving.page_server`). The
stamp is a digest of the index; the page ignores files of another one.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from curate.errors import UserError
from curate.runtime.frames import pl
from curate.seeds import digest
from curate.tables.rows import columns_of
from curate.tables.schema import COMPLETIONS, PROBLEMS, ROLES, ROLLOUTS, STEP_SCORES
from curate.tables.store import Store, among
from prm.render.scripts import call
from prm.reporting import showcase
from prm.reporting.formats import lines, shortened
from prm.reporting.showcase import ImageToShow, LabelToShow, ProblemToShow, RolloutToShow
from prm.scoring.select import RunStepScore

if TYPE_CHECKING:
    from prm.sections import ReportConfig

FOLDER = "report-data"
CHUNK, GROUP = 50, 1000
# Completions of a step up to which those of a whole group are read at once.
_FEW = 4
# Characters of a text that are shown; of a question in a chain's summary; of a completion.
LONGEST, _SUMMARY, _COMPLETION = 4000, 120, 2000
# Chains, and completions of each step, where the recipe leaves it open: files are copied about, a server is not.
BESIDE, SERVED = (2_000, 2), (100_000, 64)
_NAME = re.compile(r"(index|(?:chains|completions|search)-[0-9]{3,7})\.js|images/([0-9A-Za-z_-]{1,128})")
Value = float | None


@columns_of(COMPLETIONS)
@dataclass(frozen=True, slots=True)
class CompletionToShow:
    """What is shown of a completion."""

    rollout_id: str
    step_index: int
    sample_index: int
    outcome: bool | None
    finish: str
    answer: str | None
    text: str


@dataclass(frozen=True, slots=True)
class BrowsedChain:
    """A rollout with its problem, labels by step; by step also its label's value, scores by run and their mean."""

    rollout: RolloutToShow
    problem: ProblemToShow
    labels: Mapping[int, LabelToShow]
    values: Sequence[Value]
    scores: Sequence[Sequence[Value]]
    means: Sequence[Value]


def fall(values: Sequence[Value]) -> Value:
    """The largest fall from one labelled step to the next labelled one, 0 where labels never fall; None below two."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return round(max(0.0, *(before - after for before, after in pairwise(known))), 6)


def gap(values: Sequence[Value], scores: Sequence[Value], outcome: bool | None) -> Value:
    """The largest distance of a step's mean score from its label (the last step's: its outcome); None without any."""
    targets = list(values)
    if targets and targets[-1] is None and outcome is not None:
        targets[-1] = float(outcome)
    found = [abs(s - v) for s, v in zip(scores, targets, strict=True) if s is not None and v is not None]
    return round(max(found), 6) if found else None


def strip(values: Sequence[Value], scores: Sequence[Value]) -> str:
    """One character a step: a digit for its label (0 to 9), else a letter for its score (a to j), else a dot."""
    return "".join(
        str(_tenth(v)) if v is not None else chr(97 + _tenth(s)) if s is not None else "."
        for v, s in zip(values, scores, strict=True)
    )


def _tenth(value: float) -> int:
    return round(9 * min(max(value, 0.0), 1.0))


def _shown(text: str | None, limit: int = LONGEST) -> str | None:
    return None if text is None else shortened(lines(text), limit)


class Browse:
    """At most `most` chains of a workspace, and `completions` of each step; see the module's text."""

    def __init__(self, workspace: Store, maximum: int, completions: int) -> None:
        self._workspace, self._completions = workspace, completions
        self._ids = showcase.choose(workspace, maximum, ROLES)
        self._domains = sorted(set(workspace.read(ROLLOUTS, ["domain"])["domain"].to_pylist()))
        self._runs = tuple(sorted(set(workspace.read(STEP_SCORES, ["run"])["run"].to_pylist())))
        self._group = lru_cache(4)(self._read_group)
        self._block = lru_cache(1)(self._read_completions)

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def index(self) -> dict[str, Any]:
        """Columns of equal length, one place a chain, in the order of the chunks; and the names they refer to."""
        columns: dict[str, list[Any]] = {name: [] for name in _INDEX}
        places = {domain: place for place, domain in enumerate(self._domains)}
        for start in range(0, len(self._ids), GROUP):
            for chain in self._group(start // GROUP):
                if chain is None:
                    raise UserError("Rollouts went away while the report was made; wait for the stage that runs.")
                for name, value in zip(_INDEX, _entry(chain, places), strict=True):
                    columns[name].append(value)
        sizes = {"chunk": CHUNK, "group": GROUP, "count": len(self._ids), "completions": self._completions}
        return (
            {"domains": [lines(name) for name in self._domains], "roles": list(ROLES), "runs": list(self._runs)}
            | sizes
            | columns
        )

    @cached_property
    def stamp(self) -> str:
        """A digest of the index."""
        return digest(self.index)

    def setup(self) -> dict[str, Any]:
        """What the page itself has to know."""
        return {"stamp": self.stamp, "folder": FOLDER, "count": len(self)}

    def names(self) -> Iterator[str]:
        """Every .js file."""
        yield "index.js"
        for place in range(-(-len(self) // CHUNK)):
            yield f"chains-{place:04d}.js"
            yield f"completions-{place:04d}.js"
        for place in range(-(-len(self) // GROUP)):
            yield f"search-{place:03d}.js"

    def file(self, name: str) -> tuple[bytes, str] | None:
        """A file's bytes and its media type; None where there is no such file. Any text may be asked for."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        if match[2]:
            found = dict(self.images([match[2]]))
            return found.get(match[2])
        value = self._value(match[1])
        return None if value is None else (call(name, self.stamp, value).encode(), "text/javascript")

    def _value(self, name: str) -> Any:
        kind, _, number = name.partition("-")
        if kind == "index":
            return self.index
        place, size, digits = int(number), *((GROUP, 3) if kind == "search" else (CHUNK, 4))
        if place * size >= len(self) or number != f"{place:0{digits}d}":
            return None
        if kind == "search":
            return [_searched(chain) if chain else "" for chain in self._group(place)]
        if kind == "completions":
            # A scan of the table costs the same for many chains, so long as their completions fit in memory.
            span = GROUP // CHUNK if self._completions <= _FEW else 1
            found = self._block(place // span * span * CHUNK, span * CHUNK)
            return {key: found[key] for key in self._ids[place * CHUNK : (place + 1) * CHUNK] if key in found}
        group, start = divmod(place * CHUNK, GROUP)
        return [_shown_chain(chain) if chain else None for chain in self._group(group)[start : start + CHUNK]]

    def _read_group(self, group: int) -> list[BrowsedChain | None]:
        """Whole chains; None for what a stage took out of the tables since the index was made."""
        ids = self._ids[group * GROUP : (group + 1) * GROUP]
        chosen = among("rollout_id", ids)
        rows = {row.rollout_id: row for row in self._workspace.rows(RolloutToShow, chosen)}
        wanted = among("problem_id", sorted({row.problem_id for row in rows.values()}))
        problems = {row.problem_id: row for row in self._workspace.rows(ProblemToShow, wanted)}
        labels: dict[str, dict[int, LabelToShow]] = defaultdict(dict)
        for label in self._workspace.rows(LabelToShow, chosen):
            labels[label.rollout_id][label.step_index] = label
        scores: dict[str, dict[tuple[int, str], Value]] = defaultdict(dict)
        for score in self._workspace.rows(RunStepScore, chosen):
            scores[score.rollout_id][score.step_index, score.run] = score.score
        return [self._whole(rows[key], problems, labels[key], scores[key]) if key in rows else None for key in ids]

    def _whole(
        self,
        row: RolloutToShow,
        problems: Mapping[str, ProblemToShow],
        labels: Mapping[int, LabelToShow],
        scores: Mapping[tuple[int, str], Value],
    ) -> BrowsedChain:
        places = range(len(row.steps))
        by_step = [[scores.get((place, run)) for run in self._runs] for place in places]
        means = [_mean(each) for each in by_step]
        values = [labels[place].value if place in labels else None for place in places]
        # A problem that was ingested anew may be gone.
        return BrowsedChain(row, problems.get(row.problem_id, _GONE), labels, values, by_step, means)

    def _read_completions(self, start: int, count: int) -> dict[str, list[list[Any]]]:
        """Rollout -> [step, right, finish, answer, text] of each completion, by step and sample; of so many chains."""
        where = among("rollout_id", self._ids[start : start + count]) & (pc.field("sample_index") < self._completions)
        found: dict[str, list[CompletionToShow]] = defaultdict(list)
        for row in self._workspace.rows(CompletionToShow, where):
            found[row.rollout_id].append(row)
        return {
            key: [
                [row.step_index, row.outcome, row.finish, _shown(row.answer), _shown(row.text, _COMPLETION)]
                for row in sorted(rows, key=lambda row: (row.step_index, row.sample_index))
            ]
            for key, rows in found.items()
        }

    def images(self, hashes: Sequence[str]) -> Iterator[tuple[str, tuple[bytes, str]]]:
        """(hash, (bytes, media type)) of these images, as light as the page needs them."""
        for row in self._workspace.rows(ImageToShow, among("image_hash", hashes)):
            data, kind, _ = showcase.light(row)
            yield row.image_hash, (data, kind)

    def image_hashes(self) -> list[str]:
        """Images of the chains; a hash that cannot be a file's name is left out."""
        chosen = pl.DataFrame(self._workspace.read(ROLLOUTS, ["problem_id"], among("rollout_id", self._ids)))
        wanted = among("problem_id", chosen["problem_id"].unique().sort().to_list())
        rows = self._workspace.read(PROBLEMS, ["image_hashes"], wanted)["image_hashes"].to_pylist()
        return sorted({key for hashes in rows for key in hashes if _NAME.fullmatch(f"images/{key}")})


_INDEX = ("id", "domain", "role", "outcome", "drop", "gap", "strip", "question")
_GONE = ProblemToShow("", "", [], None, [])


def _entry(chain: BrowsedChain, domains: Mapping[str, int]) -> tuple[Any, ...]:
    """What the index holds of a chain, in the order of `_INDEX`; `domains` are their places."""
    rollout = chain.rollout
    return (
        rollout.rollout_id,
        domains[rollout.domain],
        ROLES.index(rollout.role),
        rollout.outcome,
        fall(chain.values),
        gap(chain.values, chain.means, rollout.outcome),
        strip(chain.values, chain.means),
        " ".join(lines(chain.problem.question).split())[:_SUMMARY],
    )


def _shown_chain(chain: BrowsedChain) -> dict[str, Any]:
    """A chain as its file holds it."""
    rollout, problem = chain.rollout, chain.problem
    return {
        "id": rollout.rollout_id,
        "problem": rollout.problem_id,
        "question": _shown(problem.question),
        "choices": [_shown(choice) for choice in problem.choices],
        "gold": _shown(problem.answer),
        "answer": _shown(rollout.answer),
        "finish": rollout.finish,
        "tokens": rollout.tokens,
        "images": problem.image_hashes,
        "steps": [
            [_shown(text), *showcase.counts(chain.labels.get(place)), chain.scores[place]]
            for place, text in enumerate(rollout.steps)
        ],
    }


def _mean(scores: Sequence[Value]) -> Value:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _searched(chain: BrowsedChain) -> str:
    """Everything that a search looks at, a part a line."""
    rollout, problem = chain.rollout, chain.problem
    parts = (
        *(rollout.rollout_id, problem.question, *problem.choices),
        *(problem.answer, rollout.answer, *rollout.steps),
    )
    return "\n".join(lines(part) for part in parts if part is not None)


def beside(workspace: Store, config: ReportConfig) -> Browse | None:
    """What is written beside the page; None where the recipe wants none, or there is no rollout."""
    if config.browse == 0 or not workspace.files(ROLLOUTS):
        return None
    return _made(workspace, config, BESIDE)


def served(workspace: Store, config: ReportConfig) -> Browse:
    """What a server shows. UserError where the recipe wants no browser, or there is no rollout."""
    if config.browse == 0:
        raise UserError("--serve shows the browser of chains, and report.browse is 0; leave one of them out.")
    if not workspace.files(ROLLOUTS):
        raise UserError("There is no rollout to serve; run `curate rollout` first, or leave --serve out.")
    return _made(workspace, config, SERVED)


def _made(workspace: Store, config: ReportConfig, default: tuple[int, int]) -> Browse:
    chains, completions = config.browse, config.completions
    return Browse(
        workspace, default[0] if chains is None else chains, default[1] if completions is None else completions
    )


def clear(folder: Path) -> None:
    """Delete what `write` wrote into this folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def write(browse: Browse, folder: Path) -> Path:
    """All files into `folder`/report-data, in place of what is there; returns that folder."""
    staged, place = folder / f"{FOLDER}.tmp", folder / FOLDER
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "images").mkdir(parents=True)
    for name in browse.names():
        made = browse.file(name)
        assert made is not None  # noqa: S101
        (staged / name).write_bytes(made[0])
    hashes = browse.image_hashes()
    for start in range(0, len(hashes), 200):
        for key, (data, _) in browse.images(hashes[start : start + 200]):
            (staged / "images" / key).write_bytes(data)
    clear(folder)
    staged.rename(place)
    return place
