"""How much work a command is, however busy the machine."""

from __future__ import annotations

import resource
import subprocess
import sys


def processor_seconds(*arguments: str) -> float:
    """Return the processor's seconds of Python with these arguments, the least of three runs."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, stdin=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)
