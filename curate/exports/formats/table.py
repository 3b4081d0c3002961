"""The formats of exports by name: the one table of them."""

from __future__ import annotations

from curate.errors import UserError, did_you_mean
from curate.exports.base import Maker
from curate.exports.formats.dreamprm import DreamPrmFormat
from curate.exports.formats.hub import Datasets
from curate.exports.formats.trl import Trl
from curate.exports.formats.visualprm import VisualPrm
from curate.exports.formats.webdataset import WebDataset

FORMATS: dict[str, Maker] = {
    "datasets": Datasets,
    "trl": Trl,
    "visualprm": VisualPrm,
    "dreamprm": DreamPrmFormat,
    "webdataset": WebDataset,
}


def find(name: str) -> Maker:
    """The format of this name; UserError with the nearest one when there is none."""
    if name not in FORMATS:
        raise UserError(f'There is no export format "{name}"{did_you_mean(name, list(FORMATS))}')
    return FORMATS[name]
