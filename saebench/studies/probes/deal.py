"""From labelled texts to training and test examples: no text twice, whole groups in one split, equal classes."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from saebench.errors import InputError

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Which examples were chosen: their numbers, training first, and what there is to say about it."""

    chosen: Indices
    is_train: Bools
    notes: tuple[str, ...] = ()
    shuffled: bool = False
    """Whether the examples of either split are in random order, not in that of their numbers."""


def generator(name: str, seed: int) -> torch.Generator:
    """Return the generator of one task: tasks of one seed share no random numbers."""
    digest = hashlib.sha256(f"{name}\0{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def sizes(n_train: int, n_test: int, *, limit: int | None) -> tuple[int, int]:
    """Return the numbers of training and test examples under a limit on both together; the ratio is kept, two at least."""
    if limit is None or limit >= n_train + n_test:
        return n_train, n_test
    train = min(max(round(limit * n_train / (n_train + n_test)), 2), max(limit - 2, 2))
    return train, max(limit - train, 2)


def deal(
    texts: Sequence[str], labels: Bools, groups: Sequence[Hashable], train: Bools | None, *,
    n_train: int, n_test: int, balance: Literal["equal", "as_is"], rng: torch.Generator,
) -> Dealt:  # fmt: skip
    """Choose training and test examples.

    A text that stands there twice counts once, with both labels not at all. Groups are shuffled and given out whole, so that
    training and test get their shares of the groups that hold one class, the other, or both. Then either split is subsampled.

    Args:
        texts: All texts.
        labels: Which of them are of the positive class.
        groups: What must stay in one split; a text that is in several groups goes with the first.
        train: Which are for training, where that is settled.
        n_train: Training examples at most.
        n_test: Test examples at most.
        balance: ``equal``: as many of one class as of the other in each split.
        rng: Of this task.

    Raises:
        InputError: A text is empty, all are of one class, or a split would lack one.
    """
    single, notes = _once(texts, labels)
    _both_classes(labels[single])
    order = single[_shuffled(len(single), rng)]
    if train is None:
        train = np.zeros(len(texts), bool)
        train[order] = _shares(order, labels, groups, n_train / (n_train + n_test))
    parts = []
    for name, mine, most in (("training", order[train[order]], n_train), ("test", order[~train[order]], n_test)):
        part = _subsampled(mine, labels, most, balance)
        if not (labels[part].any() and (~labels[part]).any()):
            raise InputError(f"too few texts: the {name} split lacks a class, of {len(single)} texts; give more rows")
        parts.append(np.sort(part))
    return Dealt(
        chosen=np.concatenate(parts), is_train=np.arange(sum(map(len, parts))) < len(parts[0]), notes=notes
    )  # fmt: skip


def _once(texts: Sequence[str], labels: Bools) -> tuple[Indices, tuple[str, ...]]:
    """Return the numbers of the texts without repetitions and contradictions."""
    first: dict[str, int] = {}
    torn: set[str] = set()
    flags = labels.tolist()
    for number, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"text {number} is empty; leave such rows out with `keep`")
        if flags[first.setdefault(text, number)] != flags[number]:
            torn.add(text)
    kept = np.array([number for text, number in first.items() if text not in torn], np.int64)
    notes = []
    if len(first) < len(texts):
        notes.append(f"{len(texts) - len(first)} of {len(texts)} texts stand there twice or more; counted once")
    if torn:
        notes.append(f"{len(torn)} texts have both labels; left out")
    return kept, tuple(notes)


def _both_classes(labels: Bools) -> None:
    if labels.all() or not labels.any():
        which = "of the positive class" if len(labels) and labels.all() else "of the negative class"
        raise InputError(f"all {len(labels)} texts are {which}; a probe needs both: correct label, keep or the source")


def _shuffled(n: int, rng: torch.Generator) -> Indices:
    return torch.randperm(n, generator=rng).numpy()


def _shares(order: Indices, labels: Bools, groups: Sequence[Hashable], share: float) -> Bools:
    """Return, along ``order``, what is for training: groups go to the split that is further behind its share of their kind."""
    members: dict[Hashable, list[int]] = {}
    for place, number in enumerate(order.tolist()):
        members.setdefault(groups[number], []).append(place)
    flags = labels[order].tolist()
    out = np.zeros(len(order), bool)
    every, trained = [0, 0, 0], [0, 0, 0]  # of groups that hold the negative class only, the positive only, both
    for places in members.values():
        positive = sum(flags[place] for place in places)
        kind = 0 if not positive else 1 if positive == len(places) else 2
        every[kind] += len(places)
        if trained[kind] + len(places) / 2 <= share * every[kind]:
            trained[kind] += len(places)
            out[places] = True
    return out


def _subsampled(mine: Indices, labels: Bools, most: int, balance: str) -> Indices:
    """Return at most ``most`` of the numbers, the first ones; with equal classes as many of each."""
    if balance == "as_is":
        return mine[:most]
    positive, negative = mine[labels[mine]], mine[~labels[mine]]
    n = min(len(positive), len(negative), most // 2)
    return np.concatenate([negative[:n], positive[:n]])


def deal_as_sae_probes(labels: Bools, *, seed: int, limit: int | None = None) -> Dealt:
    """Choose what the package ``sae-probes`` chooses in its setting "normal", in its order.

    Training: min(n − 100, 1,024), half of each class; test: all others but one, half of each class. The first 5,000 rows count.
    Equal indices for an equal seed (``get_train_test_indices`` of sae-probes 0.4.2, whose seed is 42 by default). Double texts
    are not left out: some stand in both splits.

    Raises:
        InputError: There are not enough of both classes.
    """
    n = min(len(labels), 5_000)
    labels = labels[:n]
    _both_classes(labels)
    n_train = min(len(labels) - 100, 1_024)
    n_test = n - n_train - 1
    if limit is not None:
        n_train, n_test = sizes(n_train, n_test, limit=limit)
    rng = np.random.RandomState(seed)  # that of the package
    try:
        train = _halves(labels, np.zeros(0, np.int64), n_train, rng)
        test = _halves(labels, np.concatenate(train), n_test, rng)
    except ValueError:
        raise InputError(
            f"{n} texts, {int(labels.sum())} of them of the positive class, do not make {n_train} and {n_test} in halves"
        ) from None
    chosen = [rng.permutation(np.concatenate(part)) for part in (train, test)]
    return Dealt(chosen=np.concatenate(chosen), is_train=np.arange(n_train + n_test) < n_train, shuffled=True)


def _halves(labels: Bools, taken: Indices, n: int, rng: np.random.RandomState) -> tuple[Indices, Indices]:
    half = -(-n // 2)
    positive, negative = (np.setdiff1d(np.flatnonzero(mine), taken) for mine in (labels, ~labels))
    return rng.choice(positive, size=half, replace=False), rng.choice(negative, size=n - half, replace=False)
