"""Runs where sae_probes is: processor seconds and scores of its ``run_sae_eval``, acts read from its cache.

``sae_probes_k_sparse.py FOLDER ASKED.json``; the last line printed is a JSON object by data set.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from sae_lens import SAE
from sae_probes.run_sae_evals import run_sae_eval


def main(folder: Path, asked: dict) -> None:
    torch.set_num_threads(asked["threads"])
    sae = SAE.load_from_disk(str(folder / asked["sae"]))
    found = {}
    for number, name in enumerate([asked["sets"][0], *asked["sets"]]):  # the first one twice: what is loaded at first use
        out = folder / f"results-{time.time_ns()}"
        start = time.process_time()
        run_sae_eval(
            sae, name, asked["hook"], asked["norm"], "normal", "model", folder / "acts", device="cpu",
            ks=asked["ks"] if number else [1], results_path=out,
        )  # fmt: skip
        seconds = time.process_time() - start
        (file,) = out.glob("**/*.json")
        found[name] = {"seconds": seconds, "auc": {row["k"]: row["test_auc"] for row in json.loads(file.read_text())}}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
