"""Real acts: read from a file, or made by running a language model over a few contexts of a corpus.

Letters: ``N`` tokens, ``D`` d_in, ``O`` d_out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.errors import InputError, first_line
from saebench.lm.model import LanguageModel
from saebench.sae import SAE, SAEConfig
from saebench.sae.reading.containers import open_safetensors
from saebench.sae.reading.mapped import Maps
from saebench.sae.site import in_stream

TOKENS = 4096
"""Tokens that are looked at."""
CONTEXTS = 8
_STORYWORLD = "storyworld"


@dataclass(frozen=True, kw_only=True)
class Acts:
    """Activations of a language model, as it has them."""

    x: Float[Tensor, "N D"]
    """At the site that is read."""
    target: Float[Tensor, "N O"] | None
    """At the site that is written; ``None`` where it is not known."""
    origin: str
    reads: bool = False
    """Whether x − mean_D(x) takes the place of x for this SAE (see :func:`saebench.stream.centring`)."""
    writes: bool = False
    """Likewise for the target."""


def given_acts(x: Float[Tensor, "N D"], config: SAEConfig, *, target: Tensor | None = None, origin: str = "given") -> Acts:
    """Return acts that somebody made, for one SAE.

    Args:
        x: At the site that it reads, without BOS and padding.
        config: The SAE.
        target: At the site that it writes; for all but transcoders this is ``x``.
        origin: Where they come from.

    Raises:
        InputError: They are empty, not finite, or of another width.
    """
    transcoder = config.site_out not in (None, config.site) or config.d_in != config.d_out
    if target is None and not transcoder:
        target = x
    for name, tensor, width in (("acts", x, config.d_in), ("target", target, config.d_out)):
        if tensor is None:
            continue
        if tensor.ndim != 2 or tensor.shape[1] != width or len(tensor) < 2 or len(tensor) != len(x):
            raise InputError(
                f"{origin}: {name} of shape {list(tensor.shape)}, but {config.name} needs [tokens, {width}], two tokens or more"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InputError(f"{origin}: {name} should be finite floating-point numbers")
    centred = config.residual == "centred"
    where = (config.site, config.site_out or config.site)
    reads, writes = (centred and (site is None or in_stream(site)) for site in where)
    step = slice(None, None, max(1, -(-len(x) // TOKENS)))
    return Acts(
        x=x[step].float(), target=None if target is None else target[step].float(), origin=origin, reads=reads, writes=writes
    )


def read_acts(path: str | Path, config: SAEConfig) -> Acts:
    """Return the acts in a file: ``.npy``, or ``.safetensors`` with ``acts`` and, for a transcoder, ``target``.

    They are ``[tokens, d_in]``, or ``[contexts, positions, d_in]``, of which position 0 is left out. Of more than 4,096 tokens
    every n-th is taken.

    Raises:
        InputError: No such file, no such tensor, or acts that do not fit the SAE.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"no such file: {path}")
    found = _tensors(file)
    if "acts" not in found:
        raise InputError(f"{path} lacks the tensor 'acts'; it has {', '.join(sorted(found))[:200]}")
    x, target = (_rows(found[key]) if key in found else None for key in ("acts", "target"))
    assert x is not None
    return given_acts(x, config, target=target, origin=file.name)


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return open_safetensors(file, Maps())
    if file.suffix != ".npy":
        raise InputError(f"{file}: acts are read from .npy or .safetensors files")
    import numpy as np

    try:
        return {"acts": torch.from_numpy(np.load(file, allow_pickle=False))}
    except OSError as error:
        raise InputError(f"{file} cannot be read ({first_line(error)})") from None
    except (ValueError, TypeError, EOFError):  # which of its ways of reading numpy tried is no help here
        raise InputError(f"{file} is not a whole .npy file of numbers; write it with numpy.save, as float32") from None


def _rows(tensor: Tensor) -> Tensor:
    return tensor[:, 1:].flatten(0, 1) if tensor.ndim == 3 else tensor


def model_acts(
    sae: SAE,
    model: str | LanguageModel,
    *,
    corpus: str | None = None,
    contexts: int = CONTEXTS,
    data_dir: Path | None = None,
    device: str = "auto",
) -> Acts:
    """Return the acts of a language model at the SAE's sites, over the scored tokens of a few contexts.

    Args:
        sae: The SAE.
        model: Hub id, folder, ``reference``, or one that is loaded.
        corpus: Hub id or path; ``storyworld`` for the bundled model, else the core task's own.
        contexts: How many.
        data_dir: Folder with a local mirror of hub data sets.
        device: ``auto``, ``cpu``, ``cuda``.

    Raises:
        InputError: A name is wrong, or the SAE does not fit the model.
    """
    from saebench.api import session_of
    from saebench.config import make_config
    from saebench.reference import MODEL
    from saebench.stream import centring

    lm, name = (None, model) if isinstance(model, str) else (model, model.id)
    if corpus is None and name == MODEL:
        corpus = _STORYWORLD
    config = make_config(saes=(sae.config.path,), model=name, corpus=corpus, limit=contexts, data_dir=data_dir, device=device)
    session = session_of(sae, config, lm)
    reads, writes = centring(session.port, sae.config)
    xs, targets = [], []
    for tokens, scored in zip(session.batches(1), session.corpus.scored, strict=True):
        clean = session.port.clean(tokens, final=False)
        xs.append(clean.acts[0, scored.to(tokens.device)].float().cpu())
        targets.append(clean.target[0, scored.to(tokens.device)].float().cpu())
        if sum(map(len, xs)) >= TOKENS:
            break
    x, target = (torch.cat(parts)[:TOKENS] for parts in (xs, targets))
    return Acts(x=x, target=target, origin=f"{session.model.id} over {session.corpus.name}", reads=reads, writes=writes)
