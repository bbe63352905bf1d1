"""An SAE that passes every check on the acts it is made for, and a format that passes every check of formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.sae.source import Entry, Source

D, S, K = 12, 22, 3
SITE = "blocks.1.hook_resid_pre"


def _directions() -> Tensor:
    """Return [S, D]: an orthonormal basis of what is orthogonal to (1, …, 1), and its negatives."""
    g = torch.Generator().manual_seed(1)
    start = torch.cat([torch.ones(D, 1), torch.randn(D, D - 1, generator=g)], 1)
    basis = torch.linalg.qr(start)[0][:, 1:].T
    return torch.cat([basis, -basis]).contiguous()


W = _directions()
B = (lambda b: b - b.mean())(torch.linspace(-1, 1, D) ** 3)


def acts(n: int = 600, seed: int = 0) -> Tensor:
    """Return [n, D]: each the sum of K directions of different axes, 1 to 2 times, and of B."""
    g = torch.Generator().manual_seed(seed)
    axes = torch.rand(n, S // 2, generator=g).argsort(1)[:, :K]
    chosen = axes + (S // 2) * torch.randint(2, axes.shape, generator=g)
    size = 1 + torch.rand(axes.shape, generator=g)
    return torch.zeros(n, S).scatter_(1, chosen, size) @ W + B


def good(kind: type[SAE] = SAE, weights: Mapping[str, Any] | None = None, **config: Any) -> SAE:
    """Return an SAE that reproduces :func:`acts`, with some tensors or settings in the place of its own."""
    fields: dict[str, Any] = {
        "activation": "topk", "d_in": D, "d_out": D, "d_sae": S, "k": K, "name": "good", "site": SITE, "model_id": "tiny",
    }  # fmt: skip
    tensors: dict[str, Any] = {
        "W_enc": W.T.contiguous(),
        "b_enc": torch.zeros(S),
        "W_dec": W.clone(),
        "b_dec": B.clone(),
        "b_in": B.clone(),
    }
    return kind(SAEConfig(**(fields | config)), SAEWeights(**(tensors | dict(weights or {}))))


def jump(theta: Tensor, **config: Any) -> SAE:
    """Return it with thresholds in the place of k."""
    return good(weights={"threshold": theta}, **({"activation": "jumprelu", "k": None} | config))


class Archive:
    """sae.npz + about.json, a format that does everything right."""

    looked_for = "about.json + sae.npz (archive)"
    rank = 900

    @staticmethod
    def detect(source: Source) -> str | None:
        return "sae.npz" if source.has("about.json", "sae.npz") and "archive" in source.json("about.json") else None

    @staticmethod
    def read(source: Source) -> Entry:
        about, shapes = source.json("about.json"), source.headers("sae.npz")
        if "W_dec" not in shapes or "k" not in about:
            raise InputError(f"{source.path} lacks W_dec or k")
        d_sae, d_in = shapes["W_dec"].shape
        config = SAEConfig(
            activation="topk", d_in=d_in, d_out=d_in, d_sae=d_sae, k=about["k"], format="archive", path=str(source.path),
            site=about.get("site"), model_id=about.get("model"),
        )  # fmt: skip
        return Entry(config=config, weights=lambda: SAEWeights(**source.tensors("sae.npz")))


def write_archive(folder: Path, sae: SAE | None = None, **about: object) -> Path:
    """Write an SAE in that format and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in (sae or good()).weights.items()}
    np.savez(folder / "sae.npz", **arrays)
    told = {"archive": 1, "k": K, "site": SITE, "model": "tiny"} | about
    (folder / "about.json").write_text(json.dumps(told))
    return folder


def changed(entry: Entry, **config: Any) -> Entry:
    """Return what ``read`` says, with other settings."""
    return replace(entry, config=replace(entry.config, **config))
