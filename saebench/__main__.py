"""``python -m saebench`` is the command ``saebench``."""

from __future__ import annotations

import sys

from saebench.cli import main

if __name__ == "__main__":
    sys.exit(main())
