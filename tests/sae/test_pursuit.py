"""Matching pursuit: identities, a case worked out by hand, and its settings in files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import SAE, SAEConfig, SAEWeights, load_sae, save_native
from saebench.sae.pursuit import Pursuit, matching_pursuit
from tests.sae.formats.cases import D, S, acts, rand

HOW = Pursuit(residual_threshold=1e-2, max_iterations=D)


def rows(n: int = S) -> Tensor:
    w = rand(n, D, seed=1)
    return w / w.norm(dim=1, keepdim=True)


def sae_of(pursuit: Pursuit | None = HOW, **changes: Any) -> SAE:
    w, b = rows(), rand(D, seed=2)
    settings = {"activation": "matching_pursuit", "d_in": D, "d_out": D, "d_sae": S, "pursuit": pursuit} | changes
    return SAE(SAEConfig(**settings), SAEWeights(W_enc=w.T, b_enc=torch.zeros(S), W_dec=w, b_dec=b, b_in=b))


def test_with_an_orthonormal_decoder_it_is_a_relu() -> None:
    w, x = torch.linalg.qr(rand(D, D))[0][:5].contiguous(), acts()
    f = matching_pursuit(x, w, replace(HOW, residual_threshold=0.0)).to_dense()
    torch.testing.assert_close(f, (x @ w.T).relu(), rtol=1e-5, atol=1e-5)


def test_by_hand() -> None:
    """x = (3, 1), rows (1, 0), (0.6, 0.8), (0, -1): 3 of the first leave (0, 1), 0.8 of the second (-0.48, 0.36)."""
    w, x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]), torch.tensor([[3.0, 1.0]])
    for steps, expected in ((1, [3.0, 0.0, 0.0]), (2, [3.0, 0.8, 0.0]), (9, [3.0, 0.8, 0.0])):
        f = matching_pursuit(x, w, Pursuit(residual_threshold=0.0, max_iterations=steps)).to_dense()
        torch.testing.assert_close(f, torch.tensor([expected]))
    left = matching_pursuit(x, w, Pursuit(residual_threshold=1.1, max_iterations=9)).to_dense()
    torch.testing.assert_close(left, torch.tensor([[3.0, 0.0, 0.0]]))  # 1 is left, which is less than 1.1


def test_each_step_leaves_less_and_is_one_latent_at_most() -> None:
    w, x, before = rows(), acts(), acts().norm(dim=1)
    for steps in range(1, D):
        found = matching_pursuit(x, w, Pursuit(residual_threshold=0.0, max_iterations=steps))
        left = (x - found.to_dense() @ w).norm(dim=1)
        assert bool((left <= before + 1e-5).all())
        assert int(found.l0().max()) <= steps
        before = left


def test_tokens_end_for_themselves() -> None:
    w, x, how = rows(), acts(), Pursuit(residual_threshold=2.0, max_iterations=D)
    whole = matching_pursuit(x, w, how)
    assert len(set(whole.l0().tolist())) > 2
    for i in range(0, len(x), 16):
        torch.testing.assert_close(matching_pursuit(x[i : i + 1], w, how).to_dense()[0], whole.to_dense()[i])


def test_no_tokens_and_no_scores() -> None:
    assert matching_pursuit(acts(0), rows(), HOW).to_dense().shape == (0, S)
    w = rows(4).abs()
    assert matching_pursuit(-w.sum(0, keepdim=True), w, HOW).l0().tolist() == [0]


def test_the_hash_tells_pursuits_apart() -> None:
    assert sae_of().sha256 == sae_of().sha256
    assert sae_of().sha256 != sae_of(replace(HOW, residual_threshold=0.1)).sha256


@pytest.mark.parametrize(("pursuit", "changes"), [(None, {}), (HOW, {"activation": "relu"})])
def test_pursuit_and_activation_belong_together(pursuit: Pursuit | None, changes: dict) -> None:
    with pytest.raises(InputError, match="pursuit"):
        sae_of(pursuit, **changes)


def test_native_files_hold_it(tmp_path: Path) -> None:
    sae, x = sae_of(), acts()
    folder = save_native(sae, tmp_path / "a")
    back = load_sae(folder)
    assert (back.sha256, back.config.pursuit) == (sae.sha256, HOW)
    assert torch.equal(back.reconstruct(x), sae.reconstruct(x))
    config = json.loads((folder / "config.json").read_text())
    assert config["pursuit"] == asdict(HOW)
    for wrong in ({"max_iterations": 0}, {"residual_threshold": "x"}, {"stop_on_repeat": 1}, {"more": 1}):
        (folder / "config.json").write_text(json.dumps(config | {"pursuit": config["pursuit"] | wrong}))
        with pytest.raises(InputError, match=r"pursuit|max_iterations|residual_threshold"):
            load_sae(folder)
    relu = replace(sae.config, activation="relu", pursuit=None)
    kept = json.loads((save_native(SAE(relu, sae.weights), tmp_path / "b") / "config.json").read_text())
    assert "pursuit" not in kept
