"""How fast storyworld is written on one core: labelled pieces (words, punctuation), and tokens of the bundled model's BPE.

python benchmarks/storyworld.py --json benchmarks/figures/storyworld.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from tokenizers import Tokenizer

from saebench.data.storyworld import write
from saebench.provenance import machine, versions
from saebench.reference import ROOT


def main() -> None:
    """Write the same documents ``--rounds`` times; seconds are those of this process' CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    path = ROOT / "model/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.exists() else None
    rates: dict[str, list[float]] = {"pieces": [], "characters": [], "tokens": []}
    for _ in range(args.rounds):
        start = time.process_time()
        documents = [write(0, "train", i) for i in range(args.documents)]
        texts = [document.text for document in documents]
        seconds = time.process_time() - start
        rates["pieces"].append(sum(len(document.pieces) for document in documents) / seconds)
        rates["characters"].append(sum(map(len, texts)) / seconds)
        if tokenizer is not None:
            start = time.process_time()
            n = sum(len(tokenizer.encode(text).ids) for text in texts)
            rates["tokens"].append(n / (seconds + time.process_time() - start))
    found = {
        f"{what}_per_second": {"median": round(statistics.median(r)), "min": round(min(r)), "max": round(max(r))}
        for what, r in rates.items()
        if r
    }
    found |= {"documents": args.documents, "rounds": args.rounds}
    print(json.dumps(found))
    if args.json:
        args.json.write_text(json.dumps(found | {"machine": machine("cpu"), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
