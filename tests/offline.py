"""Run a command with the network forbidden: ``python -m tests.offline COMMAND...``.

Where the kernel allows it the command runs in a network namespace of its own (``unshare -rn``), which holds no way out. In any
case Python's sockets refuse what is not this machine, and every attempt is written down: one that a library swallows fails too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_GUARD = """
import errno, os, sys

def _guard(event, args):
    if event == "socket.connect" or event == "socket.sendto":
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # the others are sockets of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):
        return
    with open(os.environ["SAEBENCH_OFFLINE_LOG"], "a") as log:
        log.write(f"{event} {host}\\n")
    raise OSError(errno.ENETUNREACH, f"the network is forbidden here ({event} {host})")

sys.addaudithook(_guard)
"""


def namespace() -> list[str]:
    """Return the words that put a command into a network namespace of its own; none where that is not allowed."""
    words = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if allowed else []


def run(command: list[str], **options) -> tuple[subprocess.CompletedProcess, list[str], str]:
    """Run ``command`` and return (how it ended, attempts to reach the network, what forbade them)."""
    prefix = namespace()
    how = "a network namespace of its own, and a guard in Python's sockets" if prefix else "a guard in Python's sockets"
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "sitecustomize.py").write_text(_GUARD)
        log = Path(name) / "log"
        own = options.pop("env", None) or os.environ
        hidden = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"}  # nobody asks the libraries to be quiet
        env = {k: v for k, v in own.items() if k not in hidden} | {"SAEBENCH_OFFLINE_LOG": str(log)}
        env["PYTHONPATH"] = os.pathsep.join(p for p in (name, own.get("PYTHONPATH")) if p)
        done = subprocess.run([*prefix, *command], env=env, **options)
        attempts = log.read_text().splitlines() if log.exists() else []
    return done, attempts, how


def main() -> int:
    """Run the words of the command line; 1 if something tried to reach the network, else the command's own code."""
    done, attempts, how = run(sys.argv[1:])
    sys.stderr.write(f"offline: the network was forbidden by {how}\n")
    for attempt in attempts:
        sys.stderr.write(f"offline: refused {attempt}\n")
    return 1 if attempts else done.returncode


if __name__ == "__main__":
    sys.exit(main())
