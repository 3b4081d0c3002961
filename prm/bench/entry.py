"""What `prm eval` is asked for, done: read, score, judge, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curate.errors import UserError
from curate.runtime.reporter import Reporter
from curate.tables.store import Store
from prm.bench import calibrate, read, run, score, write
from prm.bench.config import AnyVerdictConfig, CalibrationConfig, VerdictConfig, settings
from prm.bench.result import BenchmarkResult
from prm.bench.suites.catalog import BENCHMARKS


@dataclass(frozen=True)
class EvalArguments:
    """The arguments of the command."""

    benchmark: str
    data: str | None
    runs: tuple[str, ...] = ()
    model: Path | None = None
    images: Path | None = None
    revision: str | None = None
    limit: int | None = None
    settings: tuple[str, ...] = ()


def evaluate(workspace: Store, asked: EvalArguments, reporter: Reporter) -> list[tuple[BenchmarkResult, Path]]:
    """The result of each PRM, and the folder that it was written to. UserError for whatever does not go together."""
    if asked.benchmark == calibrate.NAME:
        if given := [name for name in ("data", "images", "revision") if getattr(asked, name) is not None]:
            what = "a path" if given[0] == "data" else f"--{given[0]}"
            raise UserError(f"Calibration is on the workspace's own examples, so {what} does nothing; leave it out.")
        config = settings(CalibrationConfig, list(asked.settings))
        models = score.models(workspace, asked.runs, asked.model)
        found = calibrate.evaluate(workspace, models, config, asked.limit, reporter)
        return [(result, write.write(workspace, result, layouts)) for result, layouts in found]
    if asked.data is None:
        raise UserError(f"Say where the files of {asked.benchmark} are: a path, or an id on the hub.")
    judge: VerdictConfig = settings(AnyVerdictConfig, list(asked.settings))
    models = score.models(workspace, asked.runs, asked.model)
    loaded = read.load(BENCHMARKS[asked.benchmark], asked.data, asked.images, asked.revision, asked.limit)
    results = run.evaluate(BENCHMARKS[asked.benchmark], loaded, models, judge, reporter)
    return [(result, write.write(workspace, result, layouts, loaded.unread)) for result, layouts in results]
