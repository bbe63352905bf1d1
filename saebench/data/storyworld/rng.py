"""Random choices that are the same on every platform, and what each of them costs in nats."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Generic, TypeVar, no_type_check

T = TypeVar("T")
_MASK = (1 << 64) - 1
LOG = (0.0, *(log(n) for n in range(1, 8192)))
"""``LOG[n]`` is ln n, the price of one uniform choice among n."""
_PERCENT = ((0.0, 0.0), *((-log(1 - p / 100), -log(p / 100)) for p in range(1, 100)), (0.0, 0.0))


def mix(*parts: int) -> int:
    """Return 64 bits that depend on every part (splitmix64's finaliser, once a part)."""
    state = 0x243F6A8885A308D3
    for part in parts:
        state = ((state ^ (part & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


@no_type_check
def mix_text(*words: str) -> int:
    """Return 32 bits that depend on some words; unlike ``hash``, the same in every process."""
    return int.from_bytes(blake2b("|".join(words).encode(), digest_size=4).digest(), "little")


class Weighted(Generic[T]):
    """Options that are drawn with whole-number weights."""

    __slots__ = ("cost", "options", "total")

    def __init__(self, options: Sequence[tuple[T, int]]):
        self.total = sum(weight for _, weight in options)
        self.options = tuple(option for option, weight in options for _ in range(weight))
        self.cost = tuple(log(self.total / weight) for _, weight in options for _ in range(weight))


@no_type_check
class Rng:
    """A seeded source of choices that adds up −ln p of what it drew.

    Only ``getrandbits`` is used, whose bits are fixed by the seed. A uniform choice among n scales 32 bits, so every
    probability is 1/n to within 2⁻³², and ``nats`` is exact to a few parts in a million.
    """

    __slots__ = ("bits", "nats")

    def __init__(self, *seed: int):
        self.bits = random.Random(mix(*seed)).getrandbits
        self.nats = 0.0

    def below(self, n: int) -> int:
        """Return a whole number in [0, n)."""
        self.nats += LOG[n]
        return self.bits(32) * n >> 32

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, each as likely."""
        n = len(options)
        self.nats += LOG[n]
        return options[self.bits(32) * n >> 32]

    def chance(self, percent: int) -> bool:
        """Return ``True`` in ``percent`` of a hundred cases."""
        yes = self.bits(32) * 100 >> 32 < percent
        self.nats += _PERCENT[percent][yes]
        return yes

    def weighted(self, table: Weighted[T]) -> T:
        """Return one of the options of a table by its weights."""
        i = self.bits(32) * table.total >> 32
        self.nats += table.cost[i]
        return table.options[i]

    def sample(self, options: Sequence[T], n: int) -> list[T]:
        """Return ``n`` different options in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(min(n, len(left)))]
