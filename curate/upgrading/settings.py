"""The settings in lineage records as this release writes them, so that a stage goes on from rows of an earlier one.

Keys that an earlier release did not have get the value that stands for what it did, which is their default. How texts
are cut and graded is said by version; those rows were graded anew (`curate.upgrading.regrading`), and keep their cuts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from curate import graders
from curate.recipe.sections import IngestConfig
from curate.recipe.source_sections import SourceConfig
from curate.runtime.durable import sealed
from curate.seeds import digest
from curate.sources.fields.responses import Columns
from curate.tables import lineage
from curate.tables.lineage import FILE
from curate.tables.store import Partition, write_atomic
from curate.text import steps

# What an import without these keys did.
_IMPORTED: dict[str, Any] = {"records": None, "source": None, "policy": None, "filter": None, "stop": []}
_LIMITS = ("max_pixels", "max_image_bytes")


def renew(partition: Partition) -> bool:
    """Bring the partition's record up to date; whether anything changed."""
    record = lineage.read(partition)
    if record is None:
        return False
    config = renewed(str(record["stage"]), record["config"])
    if config == record["config"]:
        return False
    before = {name: record["config"].get(name) for name in ("steps", "answers") if name in config}
    made = record | {"config": config, "digest": digest(config), "upgraded_from": before}
    write_atomic(partition.folder / FILE, sealed(made))
    return True


def renewed(stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a stage's rows with the keys that it has now."""
    if stage == "ingest":
        return _source(config)
    if stage in ("rollout", "label") and "max_steps" in config:
        return {**config, "steps": steps.VERSION, "answers": graders.VERSION}
    if stage == "import":
        columns = asdict(Columns(**_known(config.get("columns", {}))))
        # Not the version of steps: an import that is run again names its rollouts by their steps.
        now = {"columns": columns | {"response": list(columns["response"])}, "answers": graders.VERSION}
        return {**_IMPORTED, **config, **now}
    return dict(config)


def _known(columns: Mapping[str, Any]) -> dict[str, Any]:
    names = Columns.__dataclass_fields__
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in columns.items() if name in names
    }


def _source(config: Mapping[str, Any]) -> dict[str, Any]:
    limits = {name: config[name] for name in _LIMITS if name in config}
    rest = {name: value for name, value in config.items() if name not in _LIMITS}
    try:
        source: Any = TypeAdapter[Any](SourceConfig).validate_python(rest)
    except ValidationError:
        # Its sections changed in a way that only its user can decide on; the stage will say so.
        return dict(config)
    plain = IngestConfig(sources=(source,))
    defaults = {name: getattr(plain, name) for name in _LIMITS}
    return dict(source.model_dump(mode="json") | defaults | limits)
