"""`prm serve`: which PRM, on which socket, until it is asked to stop."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UserError
from curate.tables.store import Store
from prm.model.digests import CARD
from prm.model.saved import model_folder
from prm.scoring.score import trained_runs
from prm.serving.rows import Limits
from prm.serving.scorer import Batcher, Scorer
from prm.serving.visitors import LOOPBACK
from prm.training.stop import stopping

if TYPE_CHECKING:
    import uvicorn

# After this what is under way is given up.
_STOP_SECONDS = 30


def locate(target: str, workspace: Path) -> Path:
    """The folder of a PRM: a saved or exported one, or that of a run of the workspace; UserError when there is none."""
    if (Path(target) / CARD).is_file():
        return Path(target)
    if Path(target).is_dir():
        raise UserError(f"{target} contains no PRM (no {CARD}); give a folder that `prm train` or `prm export` wrote.")
    if Path(target).name != target:
        # No run's name has a separator: it is not the workspace that is missing.
        raise UserError(f"There is no folder {target}; check the path, or give a run of --workspace by its name.")
    place = Store.open(workspace, create=False)
    runs = trained_runs(place)
    if target not in runs:
        known = f"runs are {', '.join(runs)}" if runs else "no run is trained"
        raise UserError(f'There is no folder and no run "{target}"; in {workspace} {known}.')
    return model_folder(place, target)


def bind(host: str, port: int, remote: bool) -> socket.socket:
    """A socket on that address, not listening yet. UserError when it is taken or no address of this machine, or when
    other machines would reach it and `remote` is off.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        raise UserError(f"{host} is not an address; give one such as 127.0.0.1.") from None
    if not remote and not _loopback(str(address[0])):
        raise UserError(
            f"Other machines can reach {host}, and the service has no password; use 127.0.0.1, or add --allow-remote."
        )
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise UserError(f"{host} port {port} cannot be used ({error.strerror}); choose another --port.") from None
    return made


def _loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _names(bound: socket.socket) -> tuple[str, ...]:
    """What the server may be called by: on a loopback address by nothing that others could make a name of."""
    address = str(bound.getsockname()[0])
    if _loopback(address):
        return (*LOOPBACK, address)
    own = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return (*LOOPBACK, address, *sorted(own))


def build(
    scorer: Scorer,
    bound: socket.socket,
    batch_rows: int,
    queue_rows: int,
    limits: Limits,
    on_ready: Callable[[str], None],
    names: Sequence[str] = (),
) -> uvicorn.Server:
    """A server for what `scorer` scores; `on_ready` gets the address as soon as it listens on `bound`.

    It answers to its addresses, to this machine's name, and to `names`.
    """
    import uvicorn

    from prm.serving.app import Door, Service
    from prm.serving.connections import Patient

    batcher = Batcher(scorer, batch_rows, queue_rows, limits.request_pixels)
    service = Service(batcher, scorer.info(), limits).app()

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            host, port = bound.getsockname()[:2]
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    return Server(
        uvicorn.Config(
            Door(service, (*_names(bound), *names), addresses=not _loopback(bound.getsockname()[0])),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=Patient,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
    )


def run(
    folder: Path,
    bound: socket.socket,
    batch_rows: int,
    queue_rows: int,
    limits: Limits,
    on_ready: Callable[[str], None],
    names: Sequence[str] = (),
) -> None:
    """Serve until Ctrl+C or SIGTERM, which let what is under way finish; a second one does not.

    UserError when the web packages are not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UserError("`prm serve` needs the packages starlette and uvicorn; install curate-prm[serve].")
    server = build(Scorer(folder, batch_rows), bound, batch_rows, queue_rows, limits, on_ready, names)
    # uvicorn handles the signals itself, and sends them again when it has ended.
    with stopping():
        server.run(sockets=[bound])
