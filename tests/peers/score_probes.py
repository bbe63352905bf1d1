"""Runs where the real package is: what ``sae_probes`` makes of an SAE, ``score_probes.py FOLDER``.

``FOLDER/asked.json`` names the data sets, seeds, ks, penalties and the model's folder. ``FOLDER/acts`` is the package's own cache
of acts, filled but for the data set ``own``, whose acts the package reads from the model itself, as a HookedTransformer;
``FOLDER/sae`` is an SAE of sae_lens. Writes ``FOLDER/theirs.json`` and the package's results.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE
from sae_probes import run_baseline_evals, run_sae_evals
from sae_probes.generate_model_activations import ensure_dataset_activations
from transformers import AutoTokenizer

NAME = "reference"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    asked = json.loads((folder / "asked.json").read_text())
    file = Path(__file__).parents[2] / "benchmarks/peers/hooked.py"
    spec = importlib.util.spec_from_file_location("hooked", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, _ = module.hooked(asked["model"])
    model.set_tokenizer(AutoTokenizer.from_pretrained(asked["model"]))
    acts, hook = folder / "acts", asked["hook"]
    ensure_dataset_activations(
        NAME, [asked["own"]], [hook], acts, device="cpu", max_seq_len=model.cfg.n_ctx, batch_size=200, model=model
    )
    sae = SAE.load_from_disk(str(folder / "sae"))
    found = []
    for seed in asked["seeds"]:
        for norm, ks in asked["ks"].items():
            out = folder / f"results-{seed}"
            run_sae_evals(
                sae, NAME, hook, norm, "normal", ks=ks, results_path=out, model_cache_path=acts, datasets=asked["sets"],
                device="cpu", seed=seed,
            )  # fmt: skip
            for file in sorted(out.glob(f"**/*_{norm}.json")):
                found += [{**row, "seed": seed} for row in json.loads(file.read_text())]
    seed = asked["seeds"][0]
    run_baseline_evals(
        model_name=NAME, hook_name=hook, setting="normal", method="logreg", results_path=folder / "base", model_cache_path=acts,
        datasets=asked["baseline"], device="cpu", seed=seed,
    )  # fmt: skip
    base = [{**row, "seed": seed} for file in (folder / "base").glob("**/*.json") for row in json.loads(file.read_text())]
    (folder / "theirs.json").write_text(json.dumps({"probes": found, "baseline": base}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
