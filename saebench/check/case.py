"""One SAE under examination: what its files say, its weights, random acts, real ones, and what is measured more than once.

Letters: ``N`` tokens, ``n`` tokens of a sample, ``D`` d_in, ``O`` d_out, ``S`` d_sae.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.check.acts import Acts
from saebench.errors import InputError, first_line
from saebench.metrics.base import ActRows, After, Setting
from saebench.metrics.reconstruction import Reconstruction
from saebench.metrics.sparsity import Sparsity
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.sae.find import Found
from saebench.sae.load import damage
from saebench.sae.source import Entry

Need = Literal["files", "weights", "sae", "acts", "target", "oracle"]
"""What a check may need; a case knows which of them it lacks, and why."""
Oracle: TypeAlias = Callable[[Tensor], tuple[Tensor | None, Tensor | None]]
"""Another implementation of the same SAE: acts ``[n, D]`` to (dense latents ``[n, S]``, recon ``[n, O]``); either may be None."""
_SAMPLE = 64
_DENSE_ENTRIES = 1 << 24
_SCALES = (1.0, 10.0, 100.0)


class Sample(NamedTuple):
    """A few tokens, in the SAE's own space."""

    name: str
    x: Float[Tensor, "n D"]


class Case:
    """What the checks look at.

    Args:
        config: What the SAE is, after what the user told of it.
        found: Its files; ``None`` for one in memory.
        entry: What its format's ``read`` says; ``None`` likewise.
        sae: The SAE, where it is in memory already.
        oracle: Another implementation to compare with.
    """

    def __init__(
        self,
        config: SAEConfig,
        *,
        found: Found | None = None,
        entry: Entry | None = None,
        sae: SAE | None = None,
        oracle: Oracle | None = None,
    ) -> None:
        self.config, self.found, self.entry, self.oracle = config, found, entry, oracle
        self.acts: Acts | None = None
        self.missing: dict[Need, str] = {}
        self.error: str | None = None
        """Why it does not load; ``None`` if it does."""
        self.weights: SAEWeights | None = None
        """The tensors as they are stored."""
        self.sae: SAE | None = sae
        """The SAE in float32, as ``load_sae`` gives it."""
        if oracle is None:
            self.missing["oracle"] = "no other implementation was given"
        if sae is not None:
            self.missing["files"] = "an SAE in memory has no files"
            self.weights = sae.weights
        else:
            self._load()
        if self.weights is None:
            self.missing["weights"] = "it does not load"
        if self.sae is None:
            self.missing["sae"] = "it does not load"
        self.take(None)

    def _load(self) -> None:
        assert self.entry is not None and self.found is not None
        try:
            with damage(self.found):
                self.weights = self.entry.weights()
            with damage(self.found):
                self.sae = SAE(self.config, self.weights).to(dtype=torch.float32)
        except InputError as error:
            self.error = first_line(error)

    def take(self, acts: Acts | None) -> None:
        """Look at these real acts from now on."""
        self.acts = acts
        for need in ("acts", "target"):
            self.missing.pop(need, None)
        if acts is None:
            named = f" (its files name {self.config.model_id})" if self.config.model_id else ""
            self.missing["acts"] = self.missing["target"] = f"no acts: give --model NAME{named}, or --acts FILE"
        elif acts.target is None:
            self.missing["target"] = "a transcoder, and no acts of the site that it writes"

    @property
    def whole(self) -> SAE:
        """Return the SAE that loads; checks that need one are not tried where there is none."""
        assert self.sae is not None
        return self.sae

    @cached_property
    def random(self) -> Sample:
        """Normal acts about what the encoder takes off its input, at the smallest of three scales where a latent fires."""
        sae, c = self.whole, self.config
        n = max(8, min(_SAMPLE, _DENSE_ENTRIES // c.d_sae))
        noise = torch.randn(n, c.d_in, generator=torch.Generator().manual_seed(0))
        unit = 1 / c.norm_scale if c.normalisation == "constant_scale" and c.norm_scale else 1.0
        per_token = c.normalisation in ("unit_norm", "layer_norm")
        centre = torch.zeros(c.d_in) if sae.weights.b_in is None or per_token else sae.weights.b_in.cpu()
        for scale in _SCALES:
            x = unit * (centre + scale * noise)
            if len(sae.encode(x).values):
                return Sample(f"random acts of deviation {scale:g}", x)
        return Sample("random acts of deviation 1, 10 and 100", unit * (centre + noise))

    @cached_property
    def samples(self) -> list[Sample]:
        """Random acts, and some of the real ones."""
        if self.acts is None:
            return [self.random]
        step = max(1, len(self.x) // len(self.random.x))
        return [self.random, Sample("real acts", self.x[::step][: len(self.random.x)])]

    @cached_property
    def x(self) -> Float[Tensor, "N D"]:
        """The real acts in the SAE's own space."""
        assert self.acts is not None
        return _centred(self.acts.x, self.acts.reads)[0]

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Scores of ``reconstruction`` (where there is a target) and ``sparsity`` over the real acts, by name."""
        assert self.acts is not None
        target = None if self.acts.target is None else _centred(self.acts.target, self.acts.writes)[0]
        return measure(self.whole, self.x, target)

    def explained(self, sae: SAE, *, reads: bool, writes: bool, tokens: int) -> float | None:
        """Return the explained variance of the model's own acts by an SAE that is given them centred, or as they are."""
        acts = self.acts
        assert acts is not None and acts.target is not None
        step = slice(None, None, max(1, -(-len(acts.x) // tokens)))
        x, _ = _centred(acts.x[step], reads)
        target, mean = acts.target[step], _centred(acts.target[step], writes)[1]
        return measure(sae, x, target, shift=mean)["explained_variance"]


def measure(
    sae: SAE, x: Float[Tensor, "N D"], target: Float[Tensor, "N O"] | None, shift: Float[Tensor, "N one"] | None = None
) -> dict[str, float | None]:
    """Return scores by name, as the metrics give them.

    Args:
        sae: The SAE.
        x: Acts in its own space.
        target: What it should reproduce; ``None``: only ``sparsity`` is measured.
        shift: What is added to its recons.
    """
    reference = torch.zeros(sae.config.d_out) if target is None else target.mean(0)
    setting = Setting(sae=sae, n_contexts=1, context_length=len(x), windows=(), reference_mean=reference)
    kinds = [Sparsity] if target is None else [Sparsity, Reconstruction]
    metrics = [kind(setting) for kind in kinds]
    done = 0
    for latents, recon in sae.run(x):
        part = slice(done, done + len(recon))
        moved = recon if shift is None else recon + shift[part]
        place = np.zeros(len(recon), dtype=np.int64)
        rows = ActRows(x[part], moved if target is None else target[part], moved, latents, place, place)
        for metric in metrics:
            metric.update_acts(rows)
        done += len(recon)
    return {score.name: score.value for metric in metrics for score in metric.finish(After(None)).scores}


def _centred(x: Float[Tensor, "N W"], centred: bool) -> tuple[Float[Tensor, "N W"], Float[Tensor, "N one"]]:
    """Return (x as the SAE knows it, what to add to get the model's own)."""
    mean = x.mean(1, keepdim=True) if centred else x.new_zeros(len(x), 1)
    return x - mean, mean
