"""Several processes training one SAE: ``torchrun --nproc-per-node N -m saebench train …``.

``data``: every rank holds the whole SAE and a slice of each batch; gradients are averaged. ``latents``: every rank holds a
slice of the latents and the whole batch; top-k is taken over all ranks, and only sums as wide as the acts travel
(Gao et al. 2024, appendix on systems). Either way the numbers are those of one process, up to the order of summation.

Letters: ``B`` acts of a batch, ``D`` width, ``Z`` entries, ``W`` ranks.
"""

from __future__ import annotations

import atexit
import datetime
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saebench.errors import InputError, first_line

Mode = Literal["data", "latents"]


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among the others; alone by default."""

    world: int = 1
    rank: int = 0
    mode: Mode = "data"

    @classmethod
    def from_environment(cls, mode: Mode, device: torch.device) -> Ranks:
        """Join the processes that ``torchrun`` started, or stand alone if it did not."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(mode=mode)
        if not dist.is_initialized():
            try:  # the others wait while the first fills a cache; torchrun ends them all where one fails
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(days=2))
            except ValueError as error:
                raise InputError(
                    f"WORLD_SIZE={world} says that there are several processes, but they cannot be joined ({first_line(error)}); "
                    "start them with torchrun, or unset WORLD_SIZE"
                ) from None
            atexit.register(dist.destroy_process_group)
        return cls(world=world, rank=dist.get_rank(), mode=mode)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def split_data(self) -> bool:
        """Whether each rank sees a slice of the batch."""
        return self.world > 1 and self.mode == "data"

    @property
    def split_latents(self) -> bool:
        """Whether each rank holds a slice of the latents."""
        return self.world > 1 and self.mode == "latents"

    def slice_of(self, n: int, what: str) -> slice:
        """Return this rank's part of ``n`` things; ``InputError`` if they do not divide by the number of ranks."""
        if n % self.world:
            raise InputError(f"{what}={n} does not divide by the {self.world} processes; choose a multiple of {self.world}")
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a detached quantity of the batch over the slices of the batch."""
        return self._sum(value.detach()) / self.world if self.split_data else value

    def mean_gradients(self, module: nn.Module) -> None:
        """Average the gradients over the slices of the batch, in place."""
        if not self.split_data:
            return
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        flat = self._sum(torch.cat([g.reshape(-1) for g in grads])) / self.world
        at = 0
        for grad in grads:
            grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()

    def any(self, flags: Bool[Tensor, " S"]) -> Bool[Tensor, " S"]:
        """Return, latent by latent, whether it is true on any slice of the batch."""
        if not self.split_data:
            return flags
        counts = flags.to(torch.int32)
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        return counts.bool()

    def sum_latents(self, part: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the sum of what the slices of the latents give; its gradient goes to each of them."""
        return _SumForward.apply(part) if self.split_latents else part  # pyright: ignore[reportReturnType]

    def share(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Return ``x``, which is the same on all slices of the latents; its gradient is summed over them."""
        return _SumBackward.apply(x) if self.split_latents else x  # pyright: ignore[reportReturnType]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a detached quantity over the slices of the latents."""
        return self._sum(value.detach()) if self.split_latents else value

    def among_best(self, values: Float[Tensor, "B K"], k: int) -> Bool[Tensor, "B K"]:
        """Return which of this rank's candidates are among the ``k`` largest of their row over all slices of the latents."""
        if not self.split_latents:
            return torch.ones_like(values, dtype=torch.bool)
        b, own = values.shape
        everyone = self.gather(values.detach()).permute(1, 0, 2).reshape(b, -1)
        best = everyone.topk(min(k, everyone.shape[1]), dim=1, sorted=False).indices
        kept = torch.zeros_like(everyone, dtype=torch.bool).scatter_(1, best, True)
        return kept[:, self.rank * own : (self.rank + 1) * own]

    def kept(self, values: Float[Tensor, " Z"], n: int) -> Bool[Tensor, " Z"]:
        """Return which of this rank's at most ``n`` values are among the ``n`` largest over all slices of the batch."""
        padded = values.new_full((n,), -torch.inf)
        padded[: len(values)] = values
        best = self.gather(padded).reshape(-1).topk(n, sorted=False).indices
        kept = torch.zeros(n * self.world, dtype=torch.bool, device=values.device)
        kept[best] = True
        return kept[self.rank * n : self.rank * n + len(values)]

    def gather(self, value: Tensor) -> Tensor:
        """Return every rank's ``value`` stacked on a new first axis."""
        if self.world == 1:
            return value[None]
        parts = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(parts, value.contiguous())
        return torch.stack(parts)

    def gather_rows(self, value: Tensor) -> Tensor:
        """Return slices of rows of different lengths, from all ranks, as one tensor."""
        if self.world == 1:
            return value
        lengths = self.gather(torch.tensor(len(value), device=value.device))
        longest = int(lengths.max())
        padded = value.new_zeros(longest, *value.shape[1:])
        padded[: len(value)] = value
        return torch.cat([part[: int(n)] for part, n in zip(self.gather(padded), lengths, strict=True)])

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def any_rank(self, flag: bool, device: torch.device) -> bool:
        """Return whether ``flag`` is true on any rank."""
        if self.world == 1:
            return flag
        told = torch.tensor(int(flag), device=device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told)

    def _sum(self, value: Tensor) -> Tensor:
        out = value.clone()
        dist.all_reduce(out)
        return out


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        out = part.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        out = grads[0].contiguous().clone()
        dist.all_reduce(out)
        return out
