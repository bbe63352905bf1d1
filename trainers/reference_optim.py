"""How the reference model learns: Muon for the matrices of its blocks, AdamW for the rest, and one learning rate for both.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the nearest orthogonal
matrix; scaled to AdamW's size of update (Liu et al. 2025, arXiv:2502.16982, §2.2) it takes AdamW's learning rate and decay.
torch has Muon too, but always in bfloat16, which takes a CPU without instructions for it ten times as long as the rest of a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .reference_config import ReferenceConfig

_BETAS = (0.9, 0.95)
_MOMENTUM = 0.95
_TOKENS, _POSITIONS = 3.0, 0.05
"""Rates of the embeddings as multiples of the learning rate."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices, as ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, in a dtype of choice.

    A matrix that is several side by side is taken apart: their singular values have nothing to do with each other.

    With momentum M ← 0.95·M + 0.05·G and U = 0.05·G + 0.95·M (Nesterov), W ← (1 − lr·λ)·W − 0.2·√max(rows, columns)·lr·orth(U).

    Args:
        params: Matrices, or groups of them with ``parts``: of how many of equal width each one is made.
        lr: Learning rate.
        weight_decay: λ.
        dtype: In which :func:`orthogonal` computes.
    """

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "parts": 1})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - _MOMENTUM)
                update = weight.grad.lerp(momentum, _MOMENTUM).to(self._dtype)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                for own, its in zip(weight.chunk(group["parts"], 1), update.chunk(group["parts"], 1), strict=True):
                    own.add_(orthogonal(its).to(own.dtype), alpha=-0.2 * math.sqrt(max(own.shape)) * group["lr"])


def orthogonal(matrix: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Return nearly U·Vᵀ of the matrix's U·S·Vᵀ: its singular values are brought to between about 0.7 and 1.2.

    Five rounds of X ← a·X + b·X·Xᵀ·X + c·(X·Xᵀ)²·X from X / ‖X‖, the coefficients being Jordan et al.'s.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide is matrix else x.T


class Optimizer:
    """Both optimisers as one.

    Args:
        model: A GPT-2: two-dimensional parameters of its blocks go to Muon, those of queries, keys and values apart; the rest to
            AdamW, embeddings of tokens with weight decay and three times the rate, those of positions with a twentieth of it
            (they begin as sinusoids), biases and norms.
        config: Learning rate and weight decay.
        fused: For CUDA: AdamW's single kernel, and Muon in bfloat16.
    """

    def __init__(self, model: nn.Module, config: ReferenceConfig, *, fused: bool) -> None:
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in ("qkv", "matrices", "wte", "wpe", "others")}
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                kind = "others"
            elif ".h." in name:
                kind = "qkv" if "attn.c_attn" in name else "matrices"
            else:
                kind = "wpe" if "wpe" in name else "wte"
            groups[kind].append(parameter)
        self._config = config
        self._parts: list[torch.optim.Optimizer] = [
            Muon(
                [{"params": groups["qkv"], "parts": 3, "rate": 1.0}, {"params": groups["matrices"], "rate": 1.0}],
                lr=config.lr, weight_decay=config.weight_decay, dtype=torch.bfloat16 if fused else torch.float32,
            ),
            torch.optim.AdamW(
                [
                    {"params": groups["wte"], "weight_decay": config.weight_decay, "rate": _TOKENS},
                    {"params": groups["wpe"], "weight_decay": 0.0, "rate": _POSITIONS},
                    {"params": groups["others"], "weight_decay": 0.0, "rate": 1.0},
                ],
                lr=config.lr, betas=_BETAS, fused=fused,
            ),
        ]  # fmt: skip

    def step(self, at: int) -> None:
        """Take step ``at``, the first being 0, and forget the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = group["rate"] * learning_rate(self._config, at)
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
