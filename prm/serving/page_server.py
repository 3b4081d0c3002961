"""The report's page and its chains over HTTP, read from the tables when they are asked for.

Bound to loopback. No request names a file: `/` is the page, and `Browse.file` takes the few names that it knows. Other
sites that a browser has open could load scripts from loopback addresses and read what they hand over:
`prm.serving.visitors`.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from curate.errors import UserError
from prm.render.browse import FOLDER, Browse
from prm.serving.visitors import LOOPBACK, refusal

HOST = "127.0.0.1"
# A browser opens some six. Those of clients that send or read nothing are closed after a while.
_CONNECTIONS = 64
_SECONDS = 20.0


class Site(ThreadingHTTPServer):
    """A server and what it serves. A client that goes away, or is too slow, is nothing to talk about."""

    page: bytes = b""
    chains: Browse | None = None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: dict[socket.socket, float] = {}

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """Take a connection, unless too many are open already."""
        if len(self._open) >= _CONNECTIONS:
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """End a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that have been open for too long: each is for one request."""
        limit = time.monotonic() - _SECONDS
        for request in [one for one, since in list(self._open.items()) if since < limit]:
            with contextlib.suppress(OSError):
                # Its thread wakes up and finds it closed.
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        """A bug has its traceback; a client that is gone has none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def found(self, path: str) -> tuple[bytes, str] | None:
        """The body and media type of an address; None where there is nothing."""
        if path in ("/", "/report.html"):
            return self.page, "text/html; charset=utf-8"
        start, _, name = path.removeprefix("/").partition("/")
        return self.chains.file(name) if start == FOLDER and self.chains is not None else None


def bind(port: int) -> Site:
    """A server that is bound to the port (0: any that is free) and not yet serving; UserError where it is taken."""
    try:
        return Site((HOST, port), _Handler)
    except OverflowError:
        raise UserError(f"There is no port {port}; give --port between 0 and 65535.") from None
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is taken" if error.errno == errno.EADDRINUSE else "is not for everybody"
        raise UserError(f"Port {port} {why}; give another --port, or 0 for any that is free.") from None


def serve(site: Site, page: str, chains: Browse) -> None:
    """Serve the page and its chains until Ctrl+C."""
    site.page, site.chains = page.encode("utf-8", "replace"), chains
    try:
        site.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        site.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Site
    server_version, sys_version = "curate-prm", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if refusal(self.headers, LOOPBACK):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        made = self.server.found(self.path.partition("?")[0])
        if made is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data, kind = made
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the user watches the page."""
