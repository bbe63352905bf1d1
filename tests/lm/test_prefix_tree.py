"""Texts laid out as a tree of their beginnings give what each gives by itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from saebench.lm import prefix_tree
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.lm.prefix_tree import LastActs, Text, grow
from tests.lm.families import build
from tests.lm.test_token_tree import texts

SITES = ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre", "blocks.1.hook_mlp_out"]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "gemma2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("tree") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


def read(last_acts: LastActs, given: list[Text]) -> Tensor:
    out = torch.full((len(given), 24), torch.nan)
    for found in last_acts.read(given):
        out[found.texts] = found.acts
    return out


@pytest.mark.parametrize("site", SITES)
def test_acts_are_those_of_one_forward_a_text(model: LanguageModel, site: str):
    port, given = Port(model, site), texts(60 if site == SITES[1] else 15)
    flat = LastActs(port, 21)
    assert flat.flat == (model.family != "gemma2" and site != SITES[2]), "Gemma's window of five is shorter than the texts"
    together = LastActs(port, 21, flat=False)
    assert together.together == (model.family != "gemma2"), "so it is in a row"
    alone = torch.stack([port.clean(torch.tensor([text]), final=False).acts[0, -1] for text in given])
    chains = LastActs(port, 21, flat=False, together=False)
    for reader in (flat, together, chains, LastActs(port, 21, batch_size=1), LastActs(port, 21, batch_size=1, flat=False)):
        torch.testing.assert_close(read(reader, given), alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("flat", [True, False])
def test_beginnings_are_computed_once(model: LanguageModel, flat: bool):
    port = Port(model, SITES[1])
    if flat and model.family == "gemma2":
        pytest.skip("its window of five is shorter than the texts")
    given: list[Text] = [(1, *range(4, 4 + n)) for n in range(1, 15)]
    last_acts = LastActs(port, 15, flat=flat, together=True)
    read(last_acts, given)
    assert last_acts.n_tokens == 15


def test_a_flat_tree_holds_every_token_once(model: LanguageModel):
    if model.family == "gemma2":
        pytest.skip("its window of five is shorter than the texts")
    given = texts(200)
    different = {text[:n] for text in given for n in range(1, len(text) + 1)}
    tokens = []
    for batch_size in (None, 2):
        last_acts = LastActs(Port(model, SITES[1]), 21, batch_size=batch_size, flat=True)
        read(last_acts, given)
        tokens.append(last_acts.n_tokens)
    assert tokens[0] == len(different) < tokens[1], "42 tokens at once: beginnings come again"


def seen(row_depth: list[int], end: list[int], place: int) -> list[int]:
    """Return the places of a row that one sees."""
    return [j for j in range(place + 1) if j <= place < end[j]]


@pytest.mark.parametrize("capacity", [0, 1, 25, 64, 1000])
def test_every_text_stands_whole_in_a_row(capacity: int):
    given = texts()
    order = sorted(range(len(given)), key=given.__getitem__)
    shared = [0, *(next(n for n in range(99) if given[a][:n] != given[b][:n]) - 1 for a, b in itertools.pairwise(order))]
    rows = list(grow(given, order, shared, capacity))
    asked = [number for row in rows for number, _ in row.asked]
    assert sorted(asked) == list(range(len(given)))
    for row in rows:
        assert len(row.tokens) <= max(capacity, 21)
        for number, place in row.asked:
            way = seen(row.depth, row.end, place)
            assert tuple(row.tokens[j] for j in way) == given[number]
            assert [row.depth[j] for j in way] == list(range(len(way)))
    if capacity == 0:
        assert all(row.depth == list(range(len(row.tokens))) for row in rows), "chains need no mask"
        assert len(rows) == sum(not any(other[: len(text)] == text != other for other in given) for text in given)
    if capacity == 1000:
        assert sum(len(row.tokens) for row in rows) == len({text[:n] for text in given for n in range(1, len(text) + 1)})


def test_the_tree_is_cut_where_that_is_less_work(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    """Texts that differ in one token halfway share half; where attention is dear, rows are kept short all the same."""
    last_acts = LastActs(Port(model, SITES[1]), 21, flat=False, together=True)
    given: list[Text] = [(1, *([5] * 10), 6 + i, *([5] * 9)) for i in range(30)]
    tokens = []
    for price in (0, 10_000):
        monkeypatch.setattr(prefix_tree, "_EXP", price)
        before = last_acts.n_tokens
        read(last_acts, given)
        tokens.append(last_acts.n_tokens - before)
    assert tokens[0] < 0.8 * tokens[1] and tokens[1] == 30 * 21


def test_nothing_to_read(model: LanguageModel):
    assert list(LastActs(Port(model, SITES[1]), 5).read([])) == []
