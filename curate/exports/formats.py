"""The formats of exports by name: the one table of them."""

from __future__ import annotations

from curate.config import did_you_mean
from curate.errors import UserError
from curate.exports.base import Maker
from curate.exports.dreamprm import DreamPrm
from curate.exports.hub import Datasets
from curate.exports.trl import Trl
from curate.exports.visualprm import VisualPrm
from curate.exports.webdataset import WebDataset

FORMATS: dict[str, Maker] = {
    "datasets": Datasets,
    "trl": Trl,
    "visualprm": VisualPrm,
    "dreamprm": DreamPrm,
    "webdataset": WebDataset,
}


def find(name: str) -> Maker:
    """The format of this name; UserError with the nearest one when there is none."""
    if name not in FORMATS:
        raise UserError(f'There is no export format "{name}"{did_you_mean(name, list(FORMATS))}')
    return FORMATS[name]
