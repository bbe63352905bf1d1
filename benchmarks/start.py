"""How long the light commands take from the shell, beside a bare ``python -c pass`` and ``import torch`` of the same run."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from saebench.record import parse_record
from saebench.store import find_records


def seconds(words: list[str], runs: int) -> dict[str, float]:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(words, capture_output=True, check=True)
        taken.append(time.perf_counter() - start)
    return {"median": round(statistics.median(taken), 3), "min": round(min(taken), 3), "max": round(max(taken), 3)}


def copies(folder: Path, origin: Path, n: int) -> None:
    """Write ``n`` records: those under ``origin`` over again, each with a seed of its own."""
    found = [parse_record(p.read_text(), origin=str(p)) for p in find_records(origin)]
    for i in range(n):
        record = found[i % len(found)].model_copy(update={"seed": i})
        (folder / f"seed{i}.json").write_text(record.to_json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--records", type=Path, help="folder with real records to report; 60 copies are made of them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    command = [sys.executable, "-m", "saebench"]
    rows = {
        "python -c pass": seconds([sys.executable, "-c", "pass"], args.runs),
        "python -c 'import torch'": seconds([sys.executable, "-c", "import torch"], 3),
        "saebench --help": seconds([*command, "--help"], args.runs),
    }
    if args.records:
        with tempfile.TemporaryDirectory() as folder:
            copies(Path(folder), args.records, 60)
            rows["saebench report, 60 records"] = seconds([*command, "report", folder, "--format", "md"], args.runs)
    for name, row in rows.items():
        print(f"{name:32s}{row}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
