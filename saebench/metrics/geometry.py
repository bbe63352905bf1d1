"""Geometry of the weights: norms and cosines of encoder and decoder directions. Reads no acts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.metrics.base import After, Metric, MetricResult, ScoreSpec
from saebench.registry import METRICS
from saebench.stats import Estimate

_CHUNK = 2048


@METRICS.register("geometry")
class Geometry(Metric):
    """Encoder columns e_i and decoder rows d_i of the weights as used for inference.

    For TopK SAEs whose latents are rescaled by decoder norms the rescaling is part of those weights: decoder rows have unit
    norm. Latents with a zero direction have cosine 0.
    """

    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        ScoreSpec(
            name="mean_max_decoder_cosine",
            better="lower",
            unit_n="latents",
            definition="mean over i of max over j≠i of cos(d_i, d_j)",
            source="SAEBench core, average_max_decoder_cosine_sim",
        ),
        ScoreSpec(
            name="mean_max_encoder_cosine",
            better="lower",
            unit_n="latents",
            definition="mean over i of max over j≠i of cos(e_i, e_j)",
            source="SAEBench core, average_max_encoder_cosine_sim",
        ),
        ScoreSpec(
            name="mean_encoder_decoder_cosine", unit_n="latents", definition="mean over i of cos(e_i, d_i); not for transcoders"
        ),
        ScoreSpec(name="mean_decoder_norm", unit_n="latents", definition="mean over i of ‖d_i‖"),
        ScoreSpec(name="mean_encoder_norm", unit_n="latents", definition="mean over i of ‖e_i‖"),
    )

    @torch.inference_mode()
    def finish(self, after: After) -> MetricResult:
        """Return the scores and the per-latent columns."""
        sae = self.setting.sae
        encoder, decoder = sae.W_enc.float().T, sae.W_dec.float()
        e_norm, d_norm = encoder.norm(dim=1), decoder.norm(dim=1)
        columns = {
            "encoder_bias": sae.b_enc.float(),
            "encoder_norm": e_norm,
            "decoder_norm": d_norm,
            "max_encoder_cosine": max_cosine(encoder),
            "max_decoder_cosine": max_cosine(decoder),
        }
        same_width = sae.config.d_in == sae.config.d_out
        if same_width:
            columns["encoder_decoder_cosine"] = (encoder * decoder).sum(1) / (e_norm * d_norm).clamp_min(1e-12)
        names = {
            "mean_max_decoder_cosine": "max_decoder_cosine",
            "mean_max_encoder_cosine": "max_encoder_cosine",
            "mean_encoder_decoder_cosine": "encoder_decoder_cosine",
            "mean_decoder_norm": "decoder_norm",
            "mean_encoder_norm": "encoder_norm",
        }
        per_latent = {name: column.cpu().numpy() for name, column in columns.items()}
        scores = []
        for name, column in names.items():
            if column in per_latent:
                values = per_latent[column].astype(np.float64)
                estimate = Estimate(value=float(values.mean()), n=len(values))
            else:
                estimate = Estimate(value=None, reason="encoder and decoder live in different spaces (a transcoder)")
            scores.append(self.spec(name).score(estimate))
        return MetricResult(scores=scores, per_latent=per_latent)


def max_cosine(directions: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
    """Return for each row its largest cosine with another row.

    Each block of the symmetric matrix is made once and read both ways; nothing of size S × S is held.
    """
    unit = torch.nn.functional.normalize(directions, dim=1)
    best = torch.full((len(unit),), -1.0, device=unit.device)
    for start in range(0, len(unit), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(unit)))
        for other in range(start, len(unit), _CHUNK):
            columns = slice(other, min(other + _CHUNK, len(unit)))
            block = unit[rows] @ unit[columns].T
            if other == start:
                block.fill_diagonal_(-1.0)
                best[rows] = torch.maximum(best[rows], block.amax(1))
            else:
                best[rows] = torch.maximum(best[rows], block.amax(1))
                best[columns] = torch.maximum(best[columns], block.amax(0))
    return best
