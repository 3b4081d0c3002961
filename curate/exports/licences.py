"""What a licence says about handing data on, as far as its name tells. Pure. No lawyer wrote this.

Names of licences on the hub are from its documentation (hub-docs, repositories-licenses).
"""

from __future__ import annotations

import re

_UNKNOWN = frozenset({"", "unknown", "none", "other", "n/a", "?", "-", "unlicensed"})
_FORBIDS = re.compile(
    r"-nd\b|\bno[- ]?deriv|proprietary|all rights reserved|\b(?:no|not|non)[- ]?(?:re)?distribut", re.IGNORECASE
)
_HUB = frozenset(
    {
        *("apache-2.0", "mit", "gpl-3.0", "gpl-2.0", "lgpl-3.0", "agpl-3.0", "bsd-2-clause", "bsd-3-clause", "cc0-1.0"),
        *("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0"),
        *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "odbl", "odc-by", "pddl", "openrail", "unlicense"),
    }
)


def concern(licence: str | None, made_here: bool = False) -> str | None:
    """Why rows of this licence may not be handed on as they are; null where its name gives no reason.

    Rows that the program drew itself (`made_here`) have no licence but what their maker gives them.
    """
    name = (licence or "").strip().lower()
    if name in _UNKNOWN:
        return None if made_here else "the licence is unknown"
    if _FORBIDS.search(name):
        return "the licence forbids handing it on, or handing on what was made from it"
    return None if name in _HUB else "the licence is none of the common ones, and its terms are not known here"


def on_the_hub(licences: set[str | None]) -> str | list[str]:
    """What the card's `license` is: the hub's names of all these, or `other` where it has none for one of them."""
    names = sorted({(licence or "").strip().lower() for licence in licences})
    if not names or not set(names) <= _HUB:
        return "other"
    return names[0] if len(names) == 1 else names
