"""A hub for tests: a server on this machine that speaks as much of the hub's interface as its client needs to fetch files.

It serves commits of repositories from memory and keeps what was asked of it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

REPO_NOT_FOUND, REVISION_NOT_FOUND, ENTRY_NOT_FOUND = "RepoNotFound", "RevisionNotFound", "EntryNotFound"


class FakeHub:
    """Repositories by id, each with commits and the branches that name them."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request, in order."""
        self.refuse: tuple[int, dict[str, str]] | None = None
        """Status and headers of the answer to every request, if set."""
        self.token: str | None = None
        """What a request must bring as its token, if set; else the repository is gated."""
        self.url = ""

    def push(self, repo: str, files: Mapping[str, bytes] | Path, branch: str = "main") -> str:
        """Make a commit of files (or of all files in a folder) the head of a branch, and return it."""
        if isinstance(files, Path):
            files = {one.relative_to(files).as_posix(): one.read_bytes() for one in files.rglob("*") if one.is_file()}
        commit = hashlib.sha1(f"{repo} {len(self.commits)}".encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        self.branches[repo, branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """Return the names of the files that were sent, in order of name."""
        return sorted(
            path.split("/resolve/")[1].partition("/")[2] for method, path in self.asked if method == "GET" and "/resolve/" in path
        )

    def forget(self) -> None:
        """Forget what was asked."""
        self.asked.clear()

    def answer(self, method: str, path: str, body: str, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to a request."""
        if self.refuse is not None:
            return *self.refuse, b""
        if self.token is not None and token != f"Bearer {self.token}":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        api = path.startswith("/api/models/")
        words = path.removeprefix("/api/models/").removeprefix("/").split("/")
        repo, what = "/".join(words[:2]), words[2] if len(words) > 2 else "revision"
        if all(one != repo for one, _ in self.commits):
            return 404, {"X-Error-Code": REPO_NOT_FOUND}, b""
        revision = unquote(words[3]) if len(words) > 3 else "main"
        commit = self.branches.get((repo, revision), revision)
        files = self.commits.get((repo, commit))
        if files is None:
            return 404, {"X-Error-Code": REVISION_NOT_FOUND}, b""
        if api and what == "revision":
            about = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        if api and what == "paths-info":
            wanted = [name for name in parse_qs(body).get("paths", []) if name in files]
            infos = [{"type": "file", "path": name, "size": len(files[name]), "oid": _sha(files[name])} for name in wanted]
            return 200, {"Content-Type": "application/json"}, json.dumps(infos).encode()
        name = unquote("/".join(words[4:]))
        if what != "resolve" or name not in files:
            return 404, {"X-Error-Code": ENTRY_NOT_FOUND}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_sha(files[name])}"'}, files[name]


def _sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Run a hub on a free port of this machine."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            hub.asked.append((self.command, url.path))
            status, headers, data = hub.answer(self.command, url.path, body, self.headers.get("Authorization"))
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def client_of(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's client, which reads its environment when it is imported, use this hub and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    from saebench.sae.hub import fetch

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setattr(fetch, "_known", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    disable_progress_bars()
