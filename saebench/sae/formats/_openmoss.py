"""What the versions of OpenMOSS' Language-Model-SAEs share: where weights lie, sizes, sites, scales, and what is refused.

Letters: ``D`` d_model, ``S`` d_sae. ``dn`` is the norm of a latent's decoder row. ``nin`` is √D / (average norm of the acts that
are read), ``nout`` the same of the acts that are written: ``dataset-wise`` SAEs work on acts times ``nin`` and give recons
times ``nout``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.sae.reading.files import header, number, take, text
from saebench.sae.reading.mapped import slabs, wide
from saebench.sae.reading.stored import Header
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

BELOW = ("checkpoints", "sae_weights.dcp")
"""Folders in an SAE's folder that hold its weights."""
_ORDER = tuple(
    f"{stem}.{kind}"
    for stem in ("sae_weights", "checkpoints/pruned", "checkpoints/final")
    for kind in ("safetensors", "pt", "dcp")
)
"""Where the library looks for weights, in its order."""
_KINDS = {
    "crosscoder": "it reads and writes several sites at once",
    "mixcoder": "its latents depend on the modality of a token",
    "clt": "a cross-layer transcoder writes to all later layers",
    "lorsa": "its latents attend to other tokens of the sequence",
    "molt": "its latents are linear maps, not directions",
}
_BATCH = ("batchtopk", "batchlayertopk", "layertopk")
_ACTIVATIONS = ("relu", "topk", "jumprelu")
_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}
_BESIDES = re.compile(r"dataset_average_activation_norm\.|(activation_function\.)?log_jumprelu_threshold$")
"""Tensors that only versions 2 and 3 have, and read where the settings ask for them."""
_SCOPE = re.compile(r"Llama3_1-8B-Base-L(?:X|\d+)(?:R|A|M|TC)-\d+x")
_TINY = 2.0**-126
"""The smallest normal float32."""


@dataclass(frozen=True)
class Layout:
    """Names of the tensors, and whether matrices are stored as ``nn.Linear`` has them: ``[S, D]`` and ``[D, S]``."""

    W_enc: str
    b_enc: str
    W_dec: str
    b_dec: str
    linear: bool
    extra: tuple[str, ...] = ()
    """Tensors that change the encoder in a way that is not supported, by the start of their names."""

    def sizes(self, shapes: Mapping[str, Header], path: Path) -> tuple[int, int, int]:
        """Return (d_in, d_sae, d_out), or say which tensor is missing or does not fit."""
        enc = header(dict(shapes), self.W_enc, path, ndim=2).shape
        dec = header(dict(shapes), self.W_dec, path, ndim=2).shape
        (d_in, d_sae), (of_dec, d_out) = (enc[::-1], dec[::-1]) if self.linear else (enc, dec)
        b_enc = header(dict(shapes), self.b_enc, path, ndim=1).numel
        if not d_sae == of_dec == b_enc:
            raise InputError(
                f"{path}: {self.W_enc} has {d_sae} latents, {self.W_dec} {of_dec} and {self.b_enc} {b_enc}; the file is damaged"
            )
        return d_in, d_sae, d_out

    def matrices(self, source: Source, tensors: dict[str, torch.Tensor], path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """Return encoder ``[D, S]`` and decoder ``[S, D]``."""
        enc, dec = take(tensors, self.W_enc, path, ndim=(2,)), take(tensors, self.W_dec, path, ndim=(2,))
        return (source.turned(enc), source.turned(dec)) if self.linear else (enc, dec)

    def biases(self, tensors: dict[str, torch.Tensor], path: Path, d_out: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoder's and the decoder's bias, zeros where ``use_decoder_bias`` was off."""
        b_enc = take(tensors, self.b_enc, path, ndim=(1,))
        return b_enc, take(tensors, self.b_dec, path, ndim=(1,)) if self.b_dec in tensors else b_enc.new_zeros(d_out)


LINEAR = Layout("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", linear=True, extra=("encoder_glu.",))
"""Versions 1 and 2."""


@dataclass(frozen=True)
class Files:
    """Where an SAE's files are, relative to the folder of its source."""

    weights: str
    settings: str

    def beside(self, name: str) -> str:
        """Return the name of another file beside the settings."""
        return self.settings.rpartition("/")[0] + "/" + name if "/" in self.settings else name


def locate(source: Source, settings: str) -> Files | None:
    """Return where weights and settings are, ``None`` if either is missing; only names of files are looked at.

    Args:
        source: The SAE's folder, its ``checkpoints`` folder, or a file of weights in either.
        settings: Name of the file of settings.
    """
    above = f"../{settings}"
    inside = Path(os.path.abspath(source.folder)).name == "checkpoints"
    if source.has(settings):
        told = settings
    elif inside and (source.folder / above).is_file():
        told = above
    else:
        return None
    if source.file is not None:
        return Files(source.file, told) if source.file.endswith((".safetensors", ".pt")) else None
    names = _ORDER if told == settings else tuple(one.removeprefix("checkpoints/") for one in _ORDER if "/" in one)
    found = next((name for name in names if (source.folder / name).exists()), None)
    return None if found is None else Files(found, told)


def shapes_of(source: Source, file: str) -> dict[str, Header]:
    """Return the headers of the weights: ``.pt`` files hold them under ``sae``."""
    return {key.removeprefix("sae/"): one for key, one in source.headers(file).items()}


def keys_of(source: Source, file: str) -> set[str]:
    """Return the names of the weights' tensors, none if they cannot be read."""
    return {key.removeprefix("sae/") for key in source.keys(file)}


@dataclass(frozen=True, kw_only=True)
class Read:
    """What settings and headers of an SAE say, checked."""

    source: Source
    files: Files
    cfg: dict[str, Any]
    shapes: dict[str, Header]
    layout: Layout
    d_in: int
    d_sae: int
    d_out: int
    notes: Notes

    @property
    def path(self) -> Path:
        """Return the file of weights, for messages."""
        return self.source.at(self.files.weights)

    @property
    def file(self) -> Path:
        """Return the file of settings, for messages."""
        return self.source.at(self.files.settings)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors, mapped."""
        return self.source.tensors(self.files.weights, inside="sae")

    def number(self, key: str) -> int | float:
        """Return the one number of a tensor, as :meth:`saebench.sae.source.Source.number`."""
        weights = self.files.weights
        return self.source.number(weights, f"sae/{key}" if f"sae/{key}" in self.source.keys(weights) else key)

    def flag(self, key: str, default: bool) -> bool:
        """Return a setting that is true or false, or say that it is neither; where it is not there, that is noted."""
        if key not in self.cfg:
            taken = str(default).lower()
            self.notes.assumptions.append(f"{key} taken as {taken}, the library's default: {self.file.name} does not say")
        value = self.cfg.get(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.file}: {key!r} should be true or false, found {value!r}")
        return value

    @property
    def site(self) -> str | None:
        """Return the hook name of what is read."""
        return text(self.cfg, "hook_point_in", self.file)

    @property
    def site_out(self) -> str | None:
        """Return the hook name of what is written, ``None`` if it is what is read."""
        found = text(self.cfg, "hook_point_out", self.file)
        return None if found == self.site else found

    @property
    def activation(self) -> str:
        """Return ``relu``, ``topk`` or ``jumprelu``, or refuse the others."""
        name = str(self.cfg.get("act_fn")).lower()
        if name in _BATCH:
            raise InputError(
                f"{self.file}: act_fn is {name}, which picks latents over a whole batch and keeps no threshold: the same token "
                "would get other latents in other company. Convert it to jumprelu with the library first"
            )
        if name not in _ACTIVATIONS:
            raise InputError(f"{self.file}: unknown act_fn {self.cfg.get('act_fn')!r}; known: {', '.join(_ACTIVATIONS)}")
        return name

    @property
    def normalised_by(self) -> str:
        """Return ``dataset-wise``, ``token-wise`` or ``none``, or refuse the others."""
        if "norm_activation" not in self.cfg:
            raise InputError(f"{self.file} lacks 'norm_activation', which says what acts are scaled by")
        name = str(self.cfg["norm_activation"])
        if name == "batch-wise":
            raise InputError(
                f"{self.file}: norm_activation is batch-wise: what a token gives depends on its batch; not supported"
            )
        if name in ("inference", "none", "None"):
            return "none"
        if name == "token-wise" and self.site_out is not None:
            raise InputError(
                f"{self.file}: a transcoder with norm_activation token-wise gives what it writes in units of that, which is not "
                "known when it is read; not supported"
            )
        if name not in ("dataset-wise", "token-wise"):
            raise InputError(
                f"{self.file}: unknown norm_activation {name!r}; known: dataset-wise, token-wise, batch-wise, inference, none"
            )
        return name

    def k(self) -> int:
        """Return ``top_k``, from the settings or as it was told."""
        if self.cfg.get("top_k") is not None:
            return number(self.cfg, "top_k", self.file)
        told = self.source.given.get("k", int)
        if told is None:
            raise InputError(f"{self.file} does not say top_k; give it with --set k=NUMBER")
        return told

    def scales(self, norm_in: object, norm_out: object) -> tuple[float, float]:
        """Return ``nin`` and ``nout``.

        Args:
            norm_in: Average norm of the acts that are read, as the files say it; ``None`` if they do not.
            norm_out: That of those that are written.

        Raises:
            InputError: They are no positive numbers, or missing and not told.
        """
        if norm_in is None:
            nin = self.source.given.get("norm_scale", float)
            if nin is None:
                raise InputError(
                    f"{self.source.path} was trained on acts scaled by their average norm, and its files lack that norm; give "
                    "sqrt(d_model) / norm with --set norm_scale=NUMBER"
                )
        else:
            nin = math.sqrt(self.d_in) / self._norm(norm_in)
        if not (nin > 0 and math.isfinite(nin)):
            raise InputError(f"--set norm_scale={nin}: should be a positive number")
        if norm_out is not None:
            return nin, math.sqrt(self.d_out) / self._norm(norm_out)
        if self.site_out is not None:
            raise InputError(
                f"{self.source.path} is a transcoder whose files lack the average norm of what it writes ({self.site_out}), so "
                "its output cannot be brought to the model's scale"
            )
        return nin, nin

    def _norm(self, value: object) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        if not good:
            raise InputError(f"{self.source.path}: the average norm of acts should be a positive number, found {value!r}")
        return float(value)  # pyright: ignore[reportArgumentType]

    def entry(self, name: str, activation: str, k: int | None, weights: Callable[[], SAEWeights]) -> Entry:
        """Return the SAE.

        Args:
            name: Of the format.
            activation: As it is evaluated.
            k: For topk.
            weights: Reads them.
        """
        transcoder = "" if self.site_out is None else "transcoder"
        kind = _ARCHITECTURES[activation]
        architecture = "_".join(filter(None, ("" if transcoder and kind == "standard" else kind, transcoder)))
        model, context, bos = _release(self)
        config = SAEConfig(
            activation=activation,  # pyright: ignore[reportArgumentType]
            d_in=self.d_in,
            d_out=self.d_out,
            d_sae=self.d_sae,
            k=k,
            normalisation="unit_norm" if self.normalised_by == "token-wise" else "none",
            architecture=architecture,
            format=name,
            path=str(self.source.path),
            site=self.site,
            site_out=self.site_out,
            model_id=model,
            context_length=context,
            prepend_bos=bos,
            assumptions=tuple(self.notes.assumptions),
            warnings=tuple(self.notes.warnings),
        )
        return Entry(config=config, weights=weights)


def read(source: Source, files: Files | None, settings: str, layout: Layout) -> Read:
    """Read and check settings and headers.

    Raises:
        InputError: Something is missing, contradictory or not supported; the line says what.
    """
    if files is None:
        raise InputError(f"{source.path} has no {settings} with weights beside it or in checkpoints/; put them together")
    file, cfg = source.at(files.settings), source.json(files.settings)
    kind = str(cfg.get("sae_type", "sae"))
    if kind in _KINDS:
        raise InputError(f"{source.path} is a {kind} of OpenMOSS, which is not supported: {_KINDS[kind]}")
    if kind != "sae":
        raise InputError(f"{file}: unknown sae_type {kind!r}; known: sae, {', '.join(_KINDS)}")
    if files.weights.endswith(".dcp"):
        raise InputError(
            f"{source.at(files.weights)} is a checkpoint of torch.distributed in many shards, which is not supported; save it "
            "with the library's save_pretrained on one device, which writes safetensors"
        )
    weights, shapes = source.at(files.weights), shapes_of(source, files.weights)
    if cfg.get("use_glu_encoder") or any(key.startswith(layout.extra) for key in shapes):
        raise InputError(f"{source.path} has a gated linear unit in its encoder (use_glu_encoder), which is not supported")
    d_in, d_sae, d_out = layout.sizes(shapes, weights)
    _agree(cfg, file, d_in, d_sae)
    notes, own = Notes(), {layout.W_enc, layout.b_enc, layout.W_dec, layout.b_dec}
    scaled = files.settings.endswith("config.json")
    notes.left_out(files.weights, (key for key in shapes if key not in own and not (scaled and _BESIDES.match(key))))
    return Read(
        source=source, files=files, cfg=cfg, shapes=shapes, layout=layout, d_in=d_in, d_sae=d_sae, d_out=d_out, notes=notes
    )


def _agree(cfg: dict[str, Any], file: Path, d_in: int, d_sae: int) -> None:
    if "d_model" in cfg and number(cfg, "d_model", file) != d_in:
        raise InputError(f"{file}: d_model is {cfg['d_model']}, but the encoder reads {d_in}")
    if cfg.get("d_sae") is not None:
        told = number(cfg, "d_sae", file)
    else:
        factor = cfg.get("expansion_factor")
        told = d_in * factor if isinstance(factor, int | float) and math.isfinite(factor) else d_sae
        told = d_sae if abs(told - d_sae) < 1 else int(told)  # the factor may be a rounded quotient
    if told != d_sae:
        raise InputError(f"{file}: d_sae or expansion_factor says {told} latents, but the encoder has {d_sae}")


def _release(read: Read) -> tuple[str | None, int | None, bool | None]:
    """Return (model, context length, whether BOS stands first), as far as files and names say."""
    beside = read.files.beside("lm_config.json")
    if (read.source.folder / beside).is_file():
        model = text(read.source.json(beside), "model_name", read.source.at(beside))
        if model is not None:
            return model, None, None
    for word in read.source.words:
        if _SCOPE.search(word):
            model = "meta-llama/Llama-3.1-8B"
            read.notes.assumptions.append(
                f"model taken as {model}, context length as 1024 with BOS first: the name {word!r} is of Llama Scope, and its "
                "files do not say"
            )
            return model, 1024, True
        if "Llama-Scope-R1-Distill" in word:
            model = "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
            read.notes.assumptions.append(f"model taken as {model} from the name {word!r}; the files do not say")
            return model, None, None
    return None, None, None


def fold(tensor: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` · ``factor``, in place; half precision becomes float32 first, so that nothing is rounded twice."""
    if isinstance(factor, float) and factor == 1.0:
        return tensor
    return wide(tensor).mul_(factor)


def row_norms(matrix: torch.Tensor) -> torch.Tensor:
    """Return the norm of each row, at least float32, a slab at a time; rows of zeros count as the smallest number there is."""
    norms = torch.cat([wide(slab).norm(dim=1) for slab in slabs(matrix)])
    return norms.clamp_min(_TINY)
