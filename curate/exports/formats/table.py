"""The formats of exports by name: those of this project, and those that installed packages add.

A package adds a format of its own with an entry point in the group `curate.exports` whose value is a class that is made
like the ones here, see `curate.exports.base.Maker`.
"""

from __future__ import annotations

from curate.exports.base import Maker
from curate.runtime.registry import Registry

FORMATS: Registry[Maker] = Registry(
    "curate.exports",
    "export format",
    {
        "datasets": "curate.exports.formats.hub:Datasets",
        "trl": "curate.exports.formats.trl:Trl",
        "visualprm": "curate.exports.formats.visualprm:VisualPrm",
        "dreamprm": "curate.exports.formats.dreamprm:DreamPrmFormat",
        "webdataset": "curate.exports.formats.webdataset:WebDataset",
    },
)
