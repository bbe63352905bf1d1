"""How the reference model learns: Muon for the matrices of its blocks, AdamW for the rest, and one learning rate for both.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the nearest orthogonal
matrix; scaled to AdamW's size of update (Liu et al. 2025, arXiv:2502.16982, §2.2) it takes AdamW's learning rate and decay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .reference_config import ReferenceConfig

_BETAS = (0.9, 0.95)


class Optimizer:
    """Both optimisers as one.

    Args:
        model: A GPT-2: two-dimensional parameters of its blocks go to Muon, embeddings to AdamW with weight decay, biases and
            norms to AdamW without.
        config: Learning rate and weight decay.
        fused: Use AdamW's single kernel.
    """

    def __init__(self, model: nn.Module, config: ReferenceConfig, *, fused: bool) -> None:
        matrices: list[nn.Parameter] = []
        embeddings: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (others if parameter.ndim < 2 else matrices if ".h." in name else embeddings).append(parameter)
        self._config = config
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [{"params": embeddings, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
                lr=config.lr, betas=_BETAS, fused=fused,
            ),
        ]  # fmt: skip

    def step(self, at: int) -> None:
        """Take step ``at``, the first being 0, and forget the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate(self._config, at)
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of both."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Take up the state of both."""
        for part, own in zip(self._parts, state, strict=True):
            part.load_state_dict(own)


def learning_rate(config: ReferenceConfig, step: int) -> float:
    """Return the learning rate of a step, the first being 0.

    Linear warm-up, then constant, then over the last ``decay_steps`` linearly towards 0 (Hägele et al. 2024, arXiv:2405.18392):
    a run can be made longer for as long as the fall has not begun.
    """
    rising = min(1.0, (step + 1) / max(1, config.warmup))
    return config.lr * min(rising, (config.steps - step) / max(1, config.decay_steps), 1.0)
