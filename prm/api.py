"""The Python API of `prm`: train, score, select, evaluate and report as functions, and a trained PRM to score with.

    prm.train("mine.yaml", "work/mine")
    print(prm.report("work/mine").domains[0].weight)
    prm.load("seed-0", "work/mine").score(question="How many dots?", images=["dots.png"], steps=["Two.", "So 2."]).score

A user's mistake is a `curate.errors.UserError`, whose text is one sentence with the cure.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.api import Settings, Workspace, open_store, run_stage
from curate.api import load as load_recipe
from curate.errors import RowError, UserError
from curate.pipeline import Recipe
from curate.runtime.reporter import Reporter, Silent
from curate.tables.lineage import Ledger
from curate.tables.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

    from prm.bench.result import BenchmarkResult
    from prm.reporting.model import Report
    from prm.scoring.select import Selection
    from prm.serving.scorer import RolloutScores

BATCH_ROWS = 16


def train(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Ledger:
    """Train PRMs and learn the weights of domains, or of single rollouts, as the section `train` says."""
    return run_stage("train", recipe, workspace, settings, ["train"] if replace else (), reporter, create=False)


def score(
    recipe: str | Path | Recipe,
    workspace: str | Path | Workspace,
    settings: Settings = (),
    replace: bool = False,
    reporter: Reporter | None = None,
) -> Ledger:
    """Score every step of the chosen rollouts with each trained PRM; the table `step_scores` has the scores."""
    return run_stage("score", recipe, workspace, settings, ["score"] if replace else (), reporter, create=False)


def select(workspace: str | Path | Workspace, recipe: str | Path | Recipe | None = None) -> Selection:
    """Best-of-N on the test set: the PRM's pick beside first, majority and weighted vote, random and oracle.

    Nothing is written. The section `select` is that of `recipe`, or of the workspace's last run where it is null.
    UserError when there are no step scores yet.
    """
    from prm.scoring import select as best_of_n
    from prm.sections import SelectConfig

    store = open_store(workspace, create=False)
    return best_of_n.run(store, _sections(store, recipe).get("select") or SelectConfig())


def _sections(store: Store, recipe: str | Path | Recipe | None) -> Mapping[str, Any]:
    """The sections of a recipe, or what the workspace's last run was asked for."""
    from prm.reporting import remembered

    return (remembered.recipe(store, []) if recipe is None else load_recipe(recipe)).sections


def report(workspace: str | Path | Workspace, recipe: str | Path | Recipe | None = None) -> Report:
    """The dataset-quality report as one typed value; `to_json` makes plain values of it. Nothing is written.

    Sections `report` and `select` are those of `recipe`, or of the workspace's last run where it is null.
    """
    from prm.reporting import build

    store = open_store(workspace, create=False)
    sections = _sections(store, recipe)
    return build.build(store, sections.get("report"), sections.get("select"))


def evaluate(
    benchmark: str,
    data: str | None,
    workspace: str | Path | Workspace,
    model: str | Path | None = None,
    runs: Sequence[str] = (),
    images: str | Path | None = None,
    revision: str | None = None,
    limit: int | None = None,
    settings: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> list[BenchmarkResult]:
    """Evaluate trained PRMs on a benchmark with step labels, or their calibration on held-out examples.

    Args:
        benchmark: `processbench`, `visualprocessbench`, `prmbench` or `calibration`.
        data: A file, a folder of the published files, or an id on the hub; null for `calibration`.
        workspace: Results and files for the benchmark's own scorer go to its `reports/eval/`.
        model: A saved or exported PRM in place of the workspace's runs.
        runs: Only these runs of the workspace; all by default.
        images: Folder or zip archive of the benchmark's images.
        revision: Revision of the dataset on the hub.
        limit: Only so many problems.
        settings: Changes such as `threshold=0.4`.
        reporter: Who hears of progress and notes; nobody by default.
    """
    from prm.bench import entry

    store = open_store(workspace, create=model is not None)
    given = (None if model is None else Path(model), None if images is None else Path(images))
    asked = entry.EvalArguments(benchmark, data, tuple(runs), *given, revision, limit, tuple(settings))
    with store.writing():
        return [result for result, _ in entry.evaluate(store, asked, reporter or Silent())]


@dataclass(frozen=True)
class Response:
    """A response to be scored: a question, its images (paths, bytes of image files, or PIL images), and its steps."""

    question: str
    steps: Sequence[str]
    images: Sequence[str | Path | bytes | Image] = ()
    choices: Sequence[str] = field(default=())


class RewardModel:
    """A trained PRM, on a GPU where there is one. Its scores are those of `prm score` and `prm serve`."""

    def __init__(self, folder: Path, batch_rows: int = BATCH_ROWS) -> None:
        """UserError when the folder holds no PRM, or one that is damaged."""
        from prm.serving.scorer import Scorer

        self.folder = folder
        self._scorer = Scorer(folder, batch_rows)

    def info(self) -> dict[str, Any]:
        """What it is and how it reads: run, aggregation, instruction, longest input in tokens, device, versions."""
        return self._scorer.info()

    def score(
        self,
        question: str,
        steps: Sequence[str],
        images: Sequence[str | Path | bytes | Image] = (),
        choices: Sequence[str] = (),
    ) -> RolloutScores:
        """A score in (0, 1) for every step, null for a step without text, and one for the whole response.

        UserError when it cannot be read: an image that is none, a response that is too long, no step at all.
        """
        (found,) = self.score_many([Response(question, steps, images, choices)])
        if found.error is not None:
            raise UserError(f"The response has no score: {found.error}.")
        return found

    def score_many(self, responses: Iterable[Response]) -> list[RolloutScores]:
        """Scores of these responses, in their order; one that cannot be read has its `error` and harms no other."""
        from prm.serving.rows import ServedRollout
        from prm.serving.scorer import RolloutScores

        rows: list[ServedRollout | RolloutScores] = []
        for response in responses:
            try:
                rows.append(_row(response))
            except (RowError, UserError) as error:
                rows.append(RolloutScores(None, None, str(error)))
        scored = iter(self._scorer([row for row in rows if isinstance(row, ServedRollout)]))
        return [next(scored) if isinstance(row, ServedRollout) else row for row in rows]


def _row(response: Response) -> Any:
    from curate.images import inspect
    from curate.seeds import content_hash
    from prm.serving.rows import Limits, ServedRollout

    if isinstance(response.steps, str) or isinstance(response.images, str | bytes):
        raise UserError("steps and images are lists; put a single one into a list")
    if not response.steps:
        raise UserError("it has no step")
    images = [_bytes(image) for image in response.images]
    for data in images:
        inspect(data, Limits().pixels, len(data))
    shown = tuple((content_hash(data), data) for data in images)
    return ServedRollout(response.question, tuple(response.choices), shown, tuple(response.steps))


def _bytes(image: str | Path | bytes | Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UserError(f"{image} cannot be read ({error.strerror})") from None
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def load(
    model: str | Path, workspace: str | Path | Workspace | None = None, batch_rows: int = BATCH_ROWS
) -> RewardModel:
    """A trained PRM: the folder of a saved or exported one, or the name of a run in `workspace`."""
    from prm.model.saved import model_folder

    folder = Path(model) if workspace is None else model_folder(open_store(workspace, create=False), str(model))
    return RewardModel(folder, batch_rows)
