"""Texts as a tree: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import pytest
import torch

from saebench.lm import token_tree
from saebench.lm.token_tree import Text, grow


def texts(n: int = 60, longest: int = 20) -> list[Text]:
    """Return texts of few words, so that many begin alike, and some are the beginning of others."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (n,), generator=g).tolist()
    made = [(1, *torch.randint(4, 7, (length,), generator=g).tolist()) for length in lengths]
    return list(dict.fromkeys([*made, *(text[:-2] for text in made if len(text) > 6)]))


@pytest.mark.parametrize("cells", [1, 300, 1 << 20])
@pytest.mark.parametrize("capacity", [1, 25, 64, 10_000])
def test_every_text_is_a_path(capacity: int, cells: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_tree, "_CELLS", cells)
    given, seen, n_places = texts(200), [], 0
    for numbers, tree in grow(given, capacity):
        seen += numbers.tolist()
        n_places += len(tree.tokens)
        assert len(tree.tokens) <= capacity or len(numbers) == 1
        assert tree.shared[0] == 0 and (tree.shared < tree.length).all()
        for i, number in enumerate(numbers):
            places = tree.path[i, : tree.length[i]]
            assert tuple(tree.tokens[places]) == given[number]
            assert tree.depth[places].tolist() == list(range(len(given[number])))
            assert tree.ends[i] == places[-1]
            own = places[tree.shared[i] :].tolist()
            assert own == list(range(own[0], own[0] + len(own))), "its own tokens lie side by side"
            assert (places[: tree.shared[i]] < own[0]).all(), "and what it shares before them"
        different = {given[number][:n] for number in numbers for n in range(1, len(given[number]) + 1)}
        assert len(tree.tokens) == len(different), "each beginning once"
    assert sorted(seen) == list(range(len(given)))
    if cells > 300 and capacity == 10_000:
        assert n_places == len({text[:n] for text in given for n in range(1, len(text) + 1)})


def test_no_texts():
    assert list(grow([], 10)) == []
