"""Runs where the real sae_lens is: what its directory says of every SAE, and what some of them give on ``argv[1]/acts.npy``.

Reads ``argv[1]/list.tsv`` (name, release, id); writes ``argv[1]/directory.json`` and ``argv[1]/<name>.npz`` with ``latents`` and
``recon``. The hub is the one that ``HF_ENDPOINT`` names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import sae_lens
import torch
from sae_lens.loading import pretrained_saes_directory as directory
from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name

ROOT = Path(sys.argv[1])


def listed() -> dict[str, dict[str, object]]:
    """Return what sae_lens' own functions answer, by release and id."""
    found: dict[str, dict[str, object]] = {}
    for release, about in directory.get_pretrained_saes_directory().items():
        loader = get_conversion_loader_name(release)
        for id in about.saes_map:
            repo, path = directory.get_repo_id_and_folder_name(release, id)
            overrides = directory.get_config_overrides(release, id)
            overrides.pop("neuronpedia_id", None)
            factor = directory.get_norm_scaling_factor(release, id)
            found.setdefault(release, {})[id] = [repo, path, loader, about.model, factor, overrides]
    return found


if __name__ == "__main__":
    file = str(Path(sae_lens.__file__).parent / "pretrained_saes.yaml")
    (ROOT / "directory.json").write_text(json.dumps({"file": file, "saes": listed()}))
    x = torch.from_numpy(np.load(ROOT / "acts.npy"))
    for line in (ROOT / "list.tsv").read_text().splitlines():
        name, release, id = line.split("\t")
        sae = sae_lens.SAE.from_pretrained(release, id, device="cpu")
        with torch.no_grad():
            latents = sae.encode(x)
            np.savez(ROOT / f"{name}.npz", latents=latents.numpy(), recon=sae.decode(latents).numpy())
