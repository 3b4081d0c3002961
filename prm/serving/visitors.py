"""Who may ask a server on this machine: its user, and no web page of others that a browser here has open.

A page of another site can send requests to a loopback address (`Origin` and `Sec-Fetch-Site` tell), and a name that its
owner makes point here turns that page into one of the same site (DNS rebinding; `Host` tells). Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Protocol
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAME = (None, "same-origin", "none")


class Headers(Protocol):
    """Headers of a request, whatever the case of their names."""

    def get(self, name: str, /) -> str | None: ...


def refusal(headers: Headers, names: Collection[str], addresses: bool = False) -> str | None:
    """Why a request is refused, as a sentence; null when it is not.

    `names` are what this server may be called by, `addresses` says whether any IP address will do, too: to a page of
    others a server has a name.
    """
    asked = headers.get("host")
    host = hostname(asked or "")
    if host is None or not (host in names or (addresses and _is_address(host))):
        return "This server does not go by the name in the Host header; ask it by its own address."
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") not in _SAME or (origin is not None and _place(origin) != (asked or "").lower()):
        return "Requests of other sites' pages are not answered."
    return None


def hostname(host: str) -> str | None:
    """The name or address in a Host header, in small letters and without its port; null when there is none."""
    try:
        parts = urlsplit(f"//{host}")
        # Reading the port checks it.
        return None if parts.port == 0 or parts.path or parts.username else parts.hostname
    except ValueError:
        return None


def _place(origin: str) -> str:
    return origin.lower().partition("://")[2]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
