from __future__ import annotations

import numpy as np
import pytest
import torch

from saebench.errors import InputError
from saebench.studies.probes.deal import deal, deal_as_sae_probes, generator, sizes


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _deal(labels, groups=None, *, train=None, n_train=100, n_test=100, balance="equal", seed=0):
    texts = [f"t{i}" for i in range(len(labels))]
    groups = groups if groups is not None else range(len(labels))
    return deal(texts, labels, groups, train, n_train=n_train, n_test=n_test, balance=balance, rng=_rng(seed))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.9])
def test_splits_are_disjoint_balanced_and_as_large_as_they_can_be(share):
    labels = np.arange(1000) < 1000 * share
    dealt = _deal(labels, n_train=150, n_test=50)
    rarer = int(min(labels.sum(), (~labels).sum()))
    assert len(set(dealt.chosen.tolist())) == len(dealt.chosen)
    train, test = dealt.chosen[dealt.is_train], dealt.chosen[~dealt.is_train]
    for part, most, of_all in ((train, 150, 0.75), (test, 50, 0.25)):
        assert labels[part].sum() * 2 == len(part)
        assert abs(len(part) - min(most, 2 * round(rarer * of_all))) <= 2


def test_the_seed_decides_and_nothing_else():
    labels = np.arange(300) % 3 == 0
    first, again, other = (_deal(labels, seed=seed, n_train=20, n_test=20) for seed in (0, 0, 1))
    assert np.array_equal(first.chosen, again.chosen) and not np.array_equal(first.chosen, other.chosen)
    draws = [torch.rand(3, generator=generator(*key)).tolist() for key in (("a", 0), ("a", 0), ("b", 0), ("a", 1))]
    assert draws[0] == draws[1] and len({tuple(draw) for draw in draws}) == 3


def test_every_example_is_as_likely_as_another():
    labels = np.arange(60) % 2 == 0
    seen = np.zeros(60)
    for seed in range(400):
        seen[_deal(labels, n_train=10, n_test=10, seed=seed).chosen] += 1
    share = seen / 400
    assert abs(share - 1 / 3).max() < 5 * (1 / 3 * 2 / 3 / 400) ** 0.5


def test_a_group_is_in_one_split_whatever_its_labels():
    rng = np.random.default_rng(0)
    labels = rng.random(500) < 0.4
    groups = rng.integers(0, 90, 500).tolist()
    dealt = _deal(labels, groups)
    parts = [{groups[number] for number in dealt.chosen[split]} for split in (dealt.is_train, ~dealt.is_train)]
    assert not parts[0] & parts[1] and min(map(len, parts)) > 20


def test_as_is_keeps_the_share_of_the_classes():
    labels = np.arange(4000) % 5 == 0
    dealt = _deal(labels, n_train=1000, n_test=1000, balance="as_is")
    assert len(dealt.chosen) == 2000 and 0.15 < labels[dealt.chosen].mean() < 0.25


def test_sizes_under_a_limit():
    assert sizes(1000, 500, limit=None) == (1000, 500) == sizes(1000, 500, limit=1500)
    assert sizes(1000, 500, limit=300) == (200, 100)
    assert sizes(1000, 500, limit=1) == (2, 2)


def test_one_class_and_empty_texts():
    with pytest.raises(InputError, match="all 4 texts are of the positive class"):
        _deal(np.ones(4, bool))
    with pytest.raises(InputError, match="text 1 is empty"):
        deal(["a", "\t"], np.array([True, False]), [0, 1], None, n_train=2, n_test=2, balance="equal", rng=_rng())


def test_as_the_package_deals():
    labels = np.arange(2000) % 2 == 0
    dealt = deal_as_sae_probes(labels, seed=42)
    assert (dealt.is_train.sum(), (~dealt.is_train).sum()) == (1024, 2000 - 1024 - 1)
    assert len(set(dealt.chosen.tolist())) == len(dealt.chosen)
    assert labels[dealt.chosen[dealt.is_train]].sum() == 512
    short = deal_as_sae_probes(labels, seed=42, limit=200)
    assert len(short.chosen) == 200
    with pytest.raises(InputError, match="do not make"):
        deal_as_sae_probes(np.arange(2000) < 300, seed=42)
    with pytest.raises(InputError, match="all 300 texts"):
        deal_as_sae_probes(np.zeros(300, bool), seed=42)
