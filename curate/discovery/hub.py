"""A dataset of the hub as tables: its configuration and splits, the commit that is read, and its licence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from curate.discovery.findings import Guess
from curate.discovery.places import role_of
from curate.discovery.tables import CandidateTable, why_role
from curate.errors import RowError, UserError
from curate.recipe.source_sections import HubSource
from curate.runtime import hubs
from curate.sources.files import KINDS
from curate.sources.hub import HubReader, failures, library

# Fewer than of a file, because every row of them may hold an image that comes over the network.
LOOK = 60


@dataclass(frozen=True)
class HubDataset:
    """A dataset's id, and what was asked for besides; nothing named is what the dataset has."""

    dataset: str
    config: str | None = None
    splits: Sequence[str] = ()
    revision: str | None = None


def tables(wanted: HubDataset) -> list[CandidateTable]:
    """A table for each split; UserError when the dataset cannot be read, or when one of several has to be chosen."""
    datasets, name = library(), wanted.dataset
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix.lower() in KINDS:
        raise UserError(f"There is no file or folder at {name}; check the path.")
    try:
        commit, licence = _facts(wanted)
        configs = datasets.get_dataset_config_names(name, revision=commit)
        config = _chosen(wanted, configs, datasets.get_dataset_default_config_name(name, revision=commit))
        splits = datasets.get_dataset_split_names(name, config, revision=commit)
    except failures() as error:
        raise UserError(
            f"{name} is not a file or folder here, and cannot be read from the hub ({hubs.reason(error)}); check the "
            "name, the network and, for a dataset that is not public, the login (`hf auth login`)."
        ) from None
    strange = [split for split in wanted.splits if split not in splits]
    if strange:
        raise UserError(f"{name} has no split {strange[0]}; its splits are {', '.join(splits)}.")
    shared = {"kind": "hub", "dataset": name, "config": config if len(configs) > 1 else None, "licence": licence}
    known = {key: value for key, value in shared.items() if value is not None}
    return [_table(known | {"split": split, "revision": commit}) for split in wanted.splits or splits]


def _facts(wanted: HubDataset) -> tuple[str, str | None]:
    """The commit that a revision stands for now, and the licence that the dataset's card states."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(wanted.dataset, revision=wanted.revision)
    licence = (info.card_data or {}).get("license")
    return str(info.sha), licence if isinstance(licence, str) else None


def _chosen(wanted: HubDataset, configs: Sequence[str], default: str | None) -> str:
    if wanted.config is not None and wanted.config not in configs:
        raise UserError(f"{wanted.dataset} has no config {wanted.config}; its configs are {', '.join(configs)}.")
    chosen = wanted.config or default or (configs[0] if len(configs) == 1 else None)
    if chosen is None:
        raise UserError(f"{wanted.dataset} has {len(configs)} configs, choose one with --config: {', '.join(configs)}.")
    return chosen


def _table(settings: dict[str, Any]) -> CandidateTable:
    split, commit = settings["split"], settings["revision"]
    role, _ = role_of(split)
    known = [
        Guess("revision", commit, "the commit that was looked at, so that the same data is read again"),
        Guess("role", role or "train", *why_role(role)),
    ]
    source = HubReader(HubSource.model_validate({**settings, "name": "look"}), Path())
    records = [record for _, record in islice(source.unchecked(), LOOK) if not isinstance(record, RowError)]
    return CandidateTable(split, {**settings, "name": split, "domain": ""}, records, known)
