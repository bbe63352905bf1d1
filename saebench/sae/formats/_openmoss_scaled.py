"""Versions 2 and 3 of OpenMOSS' SAEs: latents in scaled units, compared times the norm of their decoder rows."""

from __future__ import annotations

import torch

from saebench.errors import InputError
from saebench.sae.formats._openmoss import Files, Layout, Read, fold, read, row_norms
from saebench.sae.reading.files import header, take
from saebench.sae.reading.mapped import wide
from saebench.sae.sae import SAEWeights
from saebench.sae.source import Entry, Source

_NORM = "dataset_average_activation_norm."
_THRESHOLDS = ("log_jumprelu_threshold", "activation_function.log_jumprelu_threshold")
_HUGE = (2 - 2**-23) * 2.0**127
"""The largest float32."""
_SPARE = "where fewer than k latents of a token are positive, the rest are taken as 0; releases of the library differ there"


def read_scaled(source: Source, files: Files | None, settings: str, layout: Layout, name: str) -> Entry:
    """Read an SAE of version 2 or 3.

    p = (nin · x) W_enc + b_enc (less b_dec before W_enc if ``apply_decoder_bias_to_pre_encoder``); with dn the norms of the
    decoder's rows if ``sparsity_include_decoder_norm``, else 1: jumprelu f = p · 1[p · dn > exp(log_threshold)], topk keeps the p
    of the k largest p · dn; x̂ = (f W_dec + b_dec) / nout. The scales go into W_enc, W_dec and b_dec, dn into the threshold or the
    rank of topk, so latents are in the library's scaled units. ``token-wise``: nin = nout = √D / ‖x‖.

    Args:
        source: The files.
        files: Where weights and settings are.
        settings: Name of the file of settings.
        layout: Names and orientation of the tensors.
        name: Of the format.

    Raises:
        InputError: Files are damaged, contradictory, or of a kind that is not supported.

    Source: ``SparseAutoEncoder.encode`` and ``compute_norm_factor`` of github.com/OpenMOSS/Language-Model-SAEs.
    """
    found = read(source, files, settings, layout)
    activation = found.activation
    scales = _scales(found) if found.normalised_by == "dataset-wise" else (1.0, 1.0)
    include = found.flag("sparsity_include_decoder_norm", True)
    shift = found.flag("apply_decoder_bias_to_pre_encoder", False)
    key = _threshold_key(found) if activation == "jumprelu" else None
    k = found.k() if activation == "topk" else None
    if activation == "topk":
        found.notes.assumptions.append(_SPARE)

    def load() -> SAEWeights:
        tensors, path, (nin, nout) = found.tensors(), found.path, scales
        W_enc, W_dec = layout.matrices(source, tensors, path)
        b_enc, b_dec = layout.biases(tensors, path, found.d_out)
        norms = row_norms(W_dec) if include and activation != "relu" else None
        return SAEWeights(
            b_in=wide(b_dec) / nin if shift else None,  # before b_dec is scaled in place
            W_enc=fold(W_enc, nin),
            b_enc=b_enc,
            W_dec=fold(W_dec, 1 / nout),
            b_dec=fold(b_dec, 1 / nout),
            threshold=None if key is None else _threshold(take(tensors, key, path, ndim=(1,)), norms),
            rank=norms if activation == "topk" else None,
        )

    return found.entry(name, activation, k, load)


def _scales(found: Read) -> tuple[float, float]:
    """Return ``nin`` and ``nout`` from the norms that lie beside the weights."""
    if found.site is None:
        raise InputError(f"{found.file} lacks hook_point_in, under which the weights name the average norm of acts")
    keys = [f"{_NORM}{site}" for site in (found.site, found.site_out or found.site)]
    norms = [found.number(key) if key in found.shapes else None for key in keys]
    return found.scales(norms[0], norms[1])


def _threshold_key(found: Read) -> str:
    key = next((one for one in _THRESHOLDS if one in found.shapes), None)
    if key is None:
        raise InputError(f"{found.path} lacks the tensor {_THRESHOLDS[0]!r}, which act_fn jumprelu needs")
    length = header(found.shapes, key, found.path, ndim=1).numel
    if length != found.d_sae:
        raise InputError(f"{found.path}: {key!r} has {length} entries for {found.d_sae} latents; the file is damaged")
    return key


def _threshold(log: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    threshold = wide(log).exp()
    return threshold if norms is None else (threshold / norms).clamp_max(_HUGE)
