"""The page in a real browser: it opens from a file, hostile tokens stay text, nothing is asked for and nothing complains."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from saebench.cli import main
from tests.dashboard.cases import HOSTILE, Page, write_all

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in _NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--enable-logging=stderr", "--window-size=1200,1600",
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser here: none of {', '.join(_NAMES)}")


class Listener:
    """A server on this machine that notes what it is asked for."""

    def __init__(self) -> None:
        asked = self.asked = list[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.stop()


def tokens_of(listener: Listener) -> tuple[str, ...]:
    return (
        f"<img src={listener.url}/img>",
        f"<link rel=stylesheet href={listener.url}/css>",
        f"</p><script src={listener.url}/js>",
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    words = write_all(folder, tokens_of(listener))
    assert main(["dashboard", *words, "--latents", "0,3,7", "--examples", "20", "--out", str(folder / "out")]) == 0
    [file] = (folder / "out").rglob("*.html")
    return file


def dom(file: Path, folder: Path) -> tuple[Page, list[str]]:
    """Return the document as the browser has built it, and what it wrote to its console."""
    assert CHROMIUM is not None
    words = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "--dump-dom", file.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_check_sees_what_it_looks_for(tmp_path: Path, listener: Listener):
    """A page in which the same words are elements asks for things and complains."""
    file = tmp_path / "bad.html"
    file.write_text("<!DOCTYPE html><p>" + "".join(tokens_of(listener)[:2]) + "<script>console.error('complaint')</script>")
    found, console = dom(file, tmp_path / "profile")
    assert {"/img", "/css"} <= set(listener.asked) and any("complaint" in line for line in console)
    assert not found.is_harmless()
    listener.asked.clear()


def test_it_opens_alone_and_holds_its_tokens_as_text(page: Path, tmp_path: Path, listener: Listener):
    found, console = dom(page, tmp_path / "profile")
    assert console == [] and listener.asked == []
    assert found.is_harmless() and len([tag for tag, _ in found.elements if tag == "section"]) == 3
    for word in (*tokens_of(listener), *HOSTILE[:3]):
        assert word in found.text
    assert not {"script", "img", "link", "b"} & found.tags
