"""``python write_probes.py FOLDER``: what ``sae_probes`` itself takes for training and test, in its environment."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import sae_probes
from sae_probes.utils_data import get_dataset_sizes, get_train_test_indices, get_yvals, read_numbered_dataset_df

SEEDS = (42, 43)


def digest(texts: list[str], labels: list[int]) -> str:
    return hashlib.sha256(json.dumps([texts, labels]).encode()).hexdigest()


def main(folder: Path) -> None:
    sizes = get_dataset_sizes()
    found = {}
    for tag, size in sizes.items():
        texts, labels = read_numbered_dataset_df(tag)["prompt"].tolist(), get_yvals(tag)
        n_train = min(size - 100, 1024)  # as in generate_sae_activations_normal and get_xy_traintest_specify
        splits = [get_train_test_indices(labels, n_train, size - n_train - 1, 0.5, seed) for seed in SEEDS]
        found[tag] = [[digest([texts[i] for i in part], labels[part].tolist()) for part in split] for split in splits]
    told = {"folder": str(Path(sae_probes.__file__).parent), "data": found, "datasets": sae_probes.DATASETS}
    (folder / "probes.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
