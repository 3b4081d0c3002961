"""A hub on loopback: the routes of the Hugging Face hub that its own clients ask for, over repositories in memory.

Read off huggingface_hub 2 (`hf_api`, `_commit_api`, `lfs`, `file_download`): repositories with commits, files that are
regular or LFS, downloads by redirect with ranges, private repositories. What else is asked for is noted in `unknown`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopback"
USER = "me"
_KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


@dataclass
class Repo:
    """Commits from the first on, each with all its files."""

    kind: str
    name: str
    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def commit(self, changes: dict[str, bytes | None], message: str) -> str:
        """The hash of a new commit with these files changed; null takes a file away."""
        files = {**(self.commits[-1][1] if self.commits else {}), **changes}
        files = {path: data for path, data in files.items() if data is not None}
        sha = hashlib.sha1(f"{self.name}{len(self.commits)}{message}".encode()).hexdigest()
        self.commits.append((sha, files))
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a branch or hash."""
        if revision in ("main", "HEAD"):
            return self.commits[-1]
        return next((each for each in self.commits if each[0] == revision), None)


def is_lfs(data: bytes) -> bool:
    return b"\0" in data[:512]


class HubServer:
    """The server, running while it is used as a context."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.unknown: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        # Clients tell a redirect to where large files lie from one within the hub by the name of the host.
        self.storage = f"http://localhost:{self._server.server_port}"

    def add(self, kind: str, name: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """A repository with one commit; `kind` is models or datasets."""
        repo = self.repos[kind, name] = Repo(kind, name, private)
        repo.commit({".gitattributes": b"*.parquet filter=lfs\n", **files}, "first")
        return repo

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    # --- plumbing

    def _route(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self._body = b"".join(iter(self._chunk, b""))
        else:
            self._body = self.rfile.read(size)
        split = urlsplit(self.path)
        self._path, self._query = split.path, parse_qs(split.query)
        self.hub.asked.append(f"{self.command} {self._path}")
        for pattern, methods, answer in _ROUTES:
            match = re.fullmatch(pattern, self._path)
            if match and self.command in methods.split():
                answer(self, **{name: value and unquote(value) for name, value in match.groupdict().items()})
                return
        self.hub.unknown.append(f"{self.command} {self._path}")
        self._failed(404, "Not Found")

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _failed(self, status: int, message: str, code: str = "") -> None:
        body = json.dumps({"error": message}).encode()
        headers = {"Content-Type": "application/json", "X-Error-Message": message}
        self._send(status, body, headers | ({"X-Error-Code": code} if code else {}))

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, kind: str, name: str) -> Repo | None:
        """The repository, or null after an answer: private ones do not show themselves to strangers."""
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not self._known):
            self._failed(404 if self._known else 401, "Repository not found", "RepoNotFound")
            return None
        return repo

    def _commit(self, kind: str, name: str, revision: str) -> tuple[Repo, str, dict[str, bytes]] | None:
        repo = self._repo(kind, name)
        found = repo and repo.at(revision)
        if repo is not None and found is None:
            self._failed(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return (repo, *found) if repo is not None and found is not None else None

    # --- routes

    def whoami(self) -> None:
        if not self._known:
            self._failed(401, "Invalid username or password.")
            return
        self._json({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        wanted = json.loads(self._body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        kind = f"{wanted.get('type') or 'model'}s"
        address = f"{self.hub.address}/{_KINDS[kind]}{name}"
        if not self._known:
            self._failed(401, "Invalid username or password.")
        elif (kind, name) in self.hub.repos:
            self._json({"error": "You already created this repo", "url": address}, 409)
        else:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.hub.add(kind, name, {}, private)
            self._json({"url": address})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        found = self._commit(kind, name, revision or "main")
        if found is None:
            return
        repo, sha, files = found
        card = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL)
        self._json(
            {
                "_id": sha[:24], "id": name, "modelId": name, "author": name.partition("/")[0], "sha": sha,
                "private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path, "size": len(data)} for path, data in sorted(files.items())],
                "cardData": yaml.safe_load(card[1]) if card else None,
            }
        )  # fmt: skip

    def tree(self, kind: str, name: str, revision: str, path: str | None = None) -> None:
        found = self._commit(kind, name, revision)
        if found is None:
            return
        _, _, files = found
        under = f"{path}/" if path else ""
        below = {each: data for each, data in files.items() if each.startswith(under)}
        if not below:
            self._failed(404, f'"{path}" does not exist', "EntryNotFound")
            return
        entries = _entries(below, under, deep=self._query.get("recursive", ["false"])[0].lower() in ("true", "1"))
        self._json(entries)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        found = self._commit(kind, name, revision)
        if found is None:
            return
        _, _, files = found
        is_json = "json" in (self.headers.get("Content-Type") or "")
        paths = json.loads(self._body)["paths"] if is_json else parse_qs(self._body.decode()).get("paths", [])
        listed = []
        for path in paths:
            if path in files:
                listed.append(_file(path, files[path]))
            elif any(each.startswith(f"{path}/") for each in files):
                listed.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        self._json(listed)

    def refs(self, kind: str, name: str) -> None:
        found = self._commit(kind, name, "main")
        if found is not None:
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found[1]}
            self._json({"branches": [main], "tags": [], "converts": []})

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        found = self._commit(f"{(kind or 'models').rstrip('/')}", name, revision)
        if found is None:
            return
        _, sha, files = found
        if path not in files:
            self._send(404, b"Entry not found", {"X-Repo-Commit": sha, "X-Error-Code": "EntryNotFound"})
            return
        data, commit = files[path], {"X-Repo-Commit": sha}
        if is_lfs(data):
            oid = hashlib.sha256(data).hexdigest()
            self.hub.stored[oid] = data
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"'}
            self._send(302, b"", {"Location": f"{self.hub.storage}/cdn/{oid}", **commit, **linked})
        else:
            self._ranged(data, {"ETag": f'"{_oid(data)}"', **commit})

    def cdn(self, oid: str) -> None:
        self._ranged(self.hub.stored[oid], {"ETag": f'"{oid}"'})

    def _ranged(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, data, {"Accept-Ranges": "bytes", **headers})
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        self._send(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}", **headers})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if self._commit(kind, name, revision) is None:
            return
        modes = []
        for each in json.loads(self._body)["files"]:
            mode = "lfs" if is_lfs(base64.b64decode(each["sample"])) else "regular"
            modes.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self._json({"files": modes})

    def batch(self, kind: str | None, name: str) -> None:
        if self._repo((kind or "models").rstrip("/"), name) is None:
            return
        objects = []
        for each in json.loads(self._body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}", "header": {}}}
            objects.append({**each, **({} if each["oid"] in self.hub.stored else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        assert hashlib.sha256(self._body).hexdigest() == oid
        self.hub.stored[oid] = self._body
        self._send(200, b"")

    def write(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        if repo is None:
            return
        if not self._known:
            self._failed(401, "Invalid username or password.")
            return
        message, changes = "", dict[str, bytes | None]()
        for line in map(json.loads, self._body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                changes[value["path"]] = self.hub.stored[value["oid"]]
            elif key == "deletedFile":
                changes[value["path"]] = None
            else:
                self.hub.unknown.append(f"commit {key}")
        sha = repo.commit(changes, message)
        url = f"{self.hub.address}/{_KINDS[kind]}{name}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _oid(data: bytes) -> str:
    """As git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _file(path: str, data: bytes) -> dict[str, object]:
    lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return {
        "type": "file",
        "oid": _oid(data),
        "size": len(data),
        "path": path,
        **({"lfs": lfs} if is_lfs(data) else {}),
    }


def _entries(files: dict[str, bytes], under: str, deep: bool) -> list[dict[str, object]]:
    """What a folder holds, folders included; with all that is below when `deep`."""
    folders = {}
    for path in files:
        parts = path[len(under) :].split("/")[:-1]
        for depth in range(1, len(parts) + 1 if deep else min(len(parts), 1) + 1):
            folders[under + "/".join(parts[:depth])] = None
    listed = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
    return [
        *listed,
        *(_file(path, data) for path, data in sorted(files.items()) if deep or "/" not in path[len(under) :]),
    ]


_NAME = r"(?P<name>[^/]+/[^/]+?)"
_API = rf"/api/(?P<kind>models|datasets)/{_NAME}"
_ROUTES = (
    (r"/api/whoami-v2", "GET", _Handler.whoami),
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/validate-yaml", "POST", _Handler.validate),
    (rf"{_API}", "GET", _Handler.info),
    (rf"{_API}/revision/(?P<revision>[^/]+)", "GET", _Handler.info),
    (rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "GET", _Handler.tree),
    (rf"{_API}/paths-info/(?P<revision>[^/]+)", "POST", _Handler.paths_info),
    (rf"{_API}/refs", "GET", _Handler.refs),
    (rf"{_API}/preupload/(?P<revision>[^/]+)", "POST", _Handler.preupload),
    (rf"{_API}/commit/(?P<revision>[^/]+)", "POST", _Handler.write),
    (rf"/(?P<kind>datasets/)?{_NAME}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (rf"/(?P<kind>datasets/)?{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "GET HEAD", _Handler.resolve),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", "PUT", _Handler.store),
    (r"/cdn/(?P<oid>[0-9a-f]{64})", "GET HEAD", _Handler.cdn),
)
