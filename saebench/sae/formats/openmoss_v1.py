"""OpenMOSS Language-Model-SAEs of 2024 (Llama Scope): ``hyperparams.json``, and weights in ``checkpoints/``."""

from __future__ import annotations

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats._openmoss import BELOW, LINEAR, Read, fold, keys_of, locate, read, row_norms
from saebench.sae.sae import SAEWeights
from saebench.sae.source import Entry, Source

_SETTINGS = "hyperparams.json"


@FORMATS.register("openmoss_v1")
class OpenMossV1:
    """hyperparams.json + checkpoints/final.safetensors, as Language-Model-SAEs wrote them in 2024 (Llama Scope).

    The library folds scales in when it loads an SAE, and so does this (``nin``, ``nout`` and dn as in ``_openmoss``). Where
    ``norm_activation`` is ``dataset-wise``: W_dec' = W_dec · nin / nout, b_dec' = b_dec / nout, b_enc' = b_enc / nin. Then, where
    ``sparsity_include_decoder_norm`` is set, the norms dn of the rows of W_dec' go from decoder to encoder. With these
    p = x W_enc' + b_enc', f = p · 1[p > jump_relu_threshold], x̂ = f W_dec' + b_dec': the threshold was measured on such p.

    Source: He et al. 2024, arXiv 2410.20526; ``SparseAutoEncoder.from_config`` of the library at that time.
    """

    looked_for = "hyperparams.json + checkpoints/final.safetensors (openmoss_v1: Llama Scope)"
    rank = 6
    below = BELOW

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights that the library would take."""
        files = locate(source, _SETTINGS)
        if files is None or (source.file is not None and not keys_of(source, files.weights) >= {LINEAR.W_enc, LINEAR.W_dec}):
            return None
        return files.weights

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        files = locate(source, _SETTINGS)
        found = read(source, files, _SETTINGS, LINEAR)
        activation, threshold = found.activation, _threshold(found)
        if activation == "topk" and threshold:
            activation = "jumprelu"
            found.notes.assumptions.append(
                f"taken as jumprelu with the threshold {threshold:g}: act_fn is topk, and the library changes it so on loading"
            )
        if activation == "jumprelu" and threshold is None:
            raise InputError(f"{found.file}: act_fn is jumprelu, but there is no jump_relu_threshold")
        scales: tuple[float, float] | None = None
        if found.normalised_by == "dataset-wise":
            norms = found.cfg.get("dataset_average_activation_norm")
            if not isinstance(norms, dict | None):
                raise InputError(
                    f"{found.file}: 'dataset_average_activation_norm' should hold the numbers 'in' and 'out', found {norms!r}"
                )
            scales = found.scales((norms or {}).get("in"), (norms or {}).get("out"))
        include = found.flag("sparsity_include_decoder_norm", True)
        shift = found.flag("apply_decoder_bias_to_pre_encoder", False)
        k = found.k() if activation == "topk" else None

        def load() -> SAEWeights:
            tensors, path = found.tensors(), found.path
            W_enc, W_dec = LINEAR.matrices(source, tensors, path)
            b_enc, b_dec = LINEAR.biases(tensors, path, found.d_out)
            if scales is not None:
                nin, nout = scales
                W_dec, b_enc, b_dec = fold(W_dec, nin / nout), fold(b_enc, 1 / nin), fold(b_dec, 1 / nout)
            if include:
                norms = row_norms(W_dec)
                W_dec, W_enc, b_enc = fold(W_dec, 1 / norms[:, None]), fold(W_enc, norms), fold(b_enc, norms)
            return SAEWeights(
                W_enc=W_enc,
                b_enc=b_enc,
                W_dec=W_dec,
                b_dec=b_dec,
                b_in=b_dec if shift else None,
                threshold=torch.tensor(threshold) if activation == "jumprelu" else None,
            )

        return found.entry("openmoss_v1", activation, k, load)


def _threshold(found: Read) -> float | None:
    value = found.cfg.get("jump_relu_threshold")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf")):
        raise InputError(f"{found.file}: 'jump_relu_threshold' should be a number, 0 or more, found {value!r}")
    return None if value is None else float(value)
