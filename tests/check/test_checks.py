"""Every check: an SAE that is as it should be passes, and one that is broken in just that way does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.check import CHECKS, check_sae
from saebench.errors import InputError
from saebench.sae import SAE, Chunk, Latents, save_native
from tests.check.cases import B, D, K, S, W, acts, good, jump

TESTED = {"oracle", "loads", "headers", "shapes", "finite"}
"""Checks whose failure has a test of its own below; ``BROKEN`` adds the others."""


class Doubled(SAE):
    """Latents that stand twice."""

    def encode(self, acts: Tensor) -> Latents:
        found = super().encode(acts)
        values, indices = (torch.cat([t, t[-1:]]) for t in (found.values, found.indices))
        offsets = found.offsets.clone()
        offsets[-1] += 1
        return Latents(values=values, indices=indices, offsets=offsets, d_sae=found.d_sae)


class Shrunk(SAE):
    """Decode that is not what reconstruct does."""

    def decode(self, latents: Latents, acts: Tensor | None = None) -> Tensor:
        return 0.99 * super().decode(latents, acts)


class Noisy(SAE):
    """Arithmetic with dice in it."""

    dice = torch.Generator().manual_seed(0)

    def run(self, acts: Tensor) -> Iterator[Chunk]:
        return super().run(acts + 1e-6 * torch.randn(acts.shape, generator=self.dice))


class OfBatch(SAE):
    """A token's latents depend on its neighbours."""

    def run(self, acts: Tensor) -> Iterator[Chunk]:
        return super().run(acts - 0.05 * acts.mean(0))


class SparseOff(SAE):
    """Wrong where few latents are active."""

    def decode(self, latents: Latents, acts: Tensor | None = None) -> Tensor:
        few = len(latents.values) < 0.04 * len(latents) * latents.d_sae
        return super().decode(latents, acts) + 0.01 * few


class AllPositive(SAE):
    """Says k and keeps everything."""

    def _activate(self, x: Tensor) -> Latents:
        return Latents.from_dense(((x - B) @ W.T).relu())


def zeroed(matrix: Tensor, rows: int) -> Tensor:
    out = matrix.clone()
    out[:rows] = 0
    return out


def repeated(rows: int) -> Tensor:
    out = W.clone()
    out[1 : rows + 1] = out[0]
    return out


def uneven() -> Tensor:
    out = W.clone()
    out[0] *= 500
    return out


FAR = {"b_in": B + 1e6, "b_dec": B + 1e6}
OFF = {"b_in": B + 1e4, "b_dec": B + 1e4}
SMALL = 0.02
OFFSET = torch.linspace(0, 0.6, 600)[:, None]

BROKEN: list[tuple[str, str, SAE, Tensor | None, set[str]]] = [
    # check, result, SAE, acts, what else does not pass because of it
    ("site", "warn", good(site=None), acts(), set()),
    ("site", "warn", good(model_id=None), acts(), set()),
    ("notes", "warn", good(warnings=("something is odd",)), acts(), set()),
    ("encoder", "warn", good(weights={"W_enc": zeroed(W, 1).T.contiguous()}), acts(), set()),
    ("encoder", "fail", good(weights={"W_enc": zeroed(W, 12).T.contiguous()}), acts(), {"alive", "l0", "explained_variance"}),
    ("decoder", "warn", good(weights={"W_dec": zeroed(W, 1)}), acts(), set()),
    ("decoder", "fail", good(weights={"W_dec": zeroed(W, 12)}), acts(), {"norm_ratio"}),
    ("decoder", "warn", good(weights={"W_dec": uneven()}), acts(), {"explained_variance", "norm_ratio"}),
    ("duplicates", "warn", good(weights={"W_dec": repeated(1)}), acts(), set()),
    ("duplicates", "fail", good(weights={"W_dec": repeated(12)}), acts(), {"explained_variance"}),
    ("thresholds", "fail", jump(torch.tensor(-1.0)), acts(), set()),
    ("thresholds", "warn", jump(torch.linspace(-0.1, 0.5, S)), acts(), set()),
    ("thresholds", "warn", jump(torch.zeros(S)), acts(), set()),
    ("half_precision", "warn", good(weights={"W_enc": 1e-9 * W.T, "W_dec": 1e9 * W}), acts(), set()),
    ("half_precision", "fail", good(weights={"b_enc": torch.full((S,), -3.4e38)}), acts(),
     {"l0", "l0_random", "alive", "explained_variance", "norm_ratio"}),
    ("latents", "fail", good(Doubled), acts(), {"native", "round_trip", "decode_paths", "l0_random", "float64"}),
    ("round_trip", "fail", good(Shrunk), acts(), set()),
    ("determinism", "fail", good(Noisy), acts(), {"native"}),
    ("batching", "fail", good(OfBatch), acts(), {"native", "float64"}),
    ("decode_paths", "fail", good(SparseOff), acts(), set()),
    ("float64", "fail", good(weights=FAR), None, {"half_precision"}),
    ("float64", "warn", good(weights=OFF), None, set()),
    ("native", "fail", good(norm_scale=math.inf), acts(), set()),
    ("l0_random", "fail", good(AllPositive), acts(), {"native", "l0", "float64"}),
    ("l0_random", "fail", jump(torch.tensor(1e4)), acts(), {"l0", "alive", "explained_variance", "input_space", "norm_ratio"}),
    ("l0_random", "fail", good(weights={"b_enc": torch.full((S,), 1e3)}, activation="relu", k=None), acts(),
     {"l0", "float64", "explained_variance", "norm_ratio"}),
    ("l0", "fail", good(weights={"b_enc": torch.full((S,), -3.0)}, activation="relu", k=None), acts(),
     {"alive", "explained_variance", "input_space", "norm_ratio"}),
    ("l0", "warn", good(k=S - 1), acts(), set()),
    ("l0", "warn", jump(torch.tensor(0.5), k=1), acts(), set()),
    ("l0", "warn", good(weights={"b_enc": torch.cat([torch.full((16,), 1e2), torch.zeros(6)])}, activation="relu", k=None),
     acts(), {"explained_variance", "norm_ratio", "l0_random"}),
    ("alive", "warn", good(weights={"b_enc": torch.cat([torch.zeros(6), torch.full((16,), -1e2)])}), acts(),
     {"l0", "explained_variance", "norm_ratio"}),
    ("alive", "fail", jump(torch.tensor(1e4)), acts(), {"l0", "l0_random", "explained_variance", "input_space", "norm_ratio"}),
    ("explained_variance", "fail", good(weights={"W_dec": -W}), acts(), {"norm_ratio"}),
    ("explained_variance", "warn", good(weights={"W_dec": 0.1 * W}), acts(), {"norm_ratio"}),
    ("norm_ratio", "fail", good(weights={"W_dec": 30 * W}), acts(), {"explained_variance"}),
    ("norm_ratio", "warn", good(weights={"W_dec": 1.5 * W}), acts(), set()),
    ("input_space", "fail", jump(torch.tensor(0.5)), SMALL * acts(), {"l0", "alive", "explained_variance", "norm_ratio"}),
    ("input_space", "warn", good(), acts() + OFFSET, {"norm_ratio", "explained_variance"}),
    ("input_space", "warn", good(weights={"b_in": None}), acts(), set()),
    ("input_space", "warn", good(weights={"b_enc": -(B @ W.T)}), acts(), set()),
]  # fmt: skip


def test_every_check_has_a_case_that_fails_it():
    from tests.check.test_formats import FORMATS_BROKEN

    assert {check for check, *_ in BROKEN} | {check for check, *_ in FORMATS_BROKEN} | TESTED == set(CHECKS)


def test_the_page_has_them_all():
    page = (Path(__file__).resolve().parents[2] / "docs/plugins.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `") and line.endswith(". |")] == [
        f"| `{one.name}` | {one.means} |" for one in CHECKS.values()
    ]


@pytest.mark.parametrize("sae", [good(), jump(torch.tensor(0.5)), jump(torch.linspace(0.2, 0.5, S))], ids=["topk", "one", "many"])
def test_a_sound_sae_passes_everything(sae: SAE):
    report = check_sae(sae, acts=acts())
    assert report.ok, report
    assert not report.of("warn"), report
    needs_files = {name for name, one in CHECKS.items() if "files" in one.needs}
    assert {row.check for row in report.of("skipped")} - {"thresholds"} == needs_files
    assert all(row.found and "\n" not in row.found and row.means.endswith(".") for row in report.results)


@pytest.mark.parametrize(("check", "status", "sae", "x", "also"), BROKEN, ids=[f"{row[0]}-{i}" for i, row in enumerate(BROKEN)])
def test_what_is_broken_in_one_way_fails_there(check: str, status: str, sae: SAE, x: Tensor | None, also: set[str]):
    report = check_sae(sae, acts=x)
    assert report[check].status == status, report
    assert {row.check for row in report.of("warn", "fail")} - {check} <= also, report


def test_the_hint_says_what_to_try():
    small = check_sae(jump(torch.tensor(0.5)), acts=SMALL * acts())["input_space"].found
    assert "unit norm" in small or "scaled" in small
    assert "--residual centred" in check_sae(good(), acts=acts() + OFFSET)["input_space"].found
    assert "with b_dec taken off" in check_sae(good(weights={"b_in": None}), acts=acts())["input_space"].found
    assert "without b_dec taken off" in check_sae(good(weights={"b_enc": -(B @ W.T)}), acts=acts())["input_space"].found


def test_centred_acts_are_made_of_raw_ones_for_an_sae_that_wants_them():
    report = check_sae(good(residual="centred"), acts=acts() + OFFSET)
    assert report.ok and not report.of("warn"), report


def test_a_transcoder_is_compared_with_what_it_should_write():
    turned = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3)))[0][:, :9]
    sae = good(weights={"W_dec": W @ turned, "b_dec": torch.zeros(9)}, d_out=9, site_out="blocks.1.hook_mlp_out")
    without = check_sae(sae, acts=acts())
    assert without.ok and without["l0"].status == "pass" and without["explained_variance"].status == "skipped", without
    whole = check_sae(sae, acts=acts(), target=(acts() - B) @ turned)
    assert whole["explained_variance"].found.startswith("1 ") and whole.ok, whole
    assert check_sae(sae, acts=acts(), target=-(acts() - B) @ turned)["explained_variance"].status == "fail"


def own_code(x: Tensor, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return (latents, recon) of the good SAE by its equations."""
    values, indices = ((x - B) @ W.T).topk(K, 1)
    latents = size * torch.zeros(len(x), S).scatter_(1, indices, values.relu())
    return latents, latents @ W + B


def test_another_implementation_agrees_or_does_not():
    assert check_sae(good(), acts=acts(), oracle=own_code)["oracle"].status == "pass"
    assert check_sae(good(), oracle=lambda x: (None, own_code(x)[1]))["oracle"].status == "pass"
    assert "latents differ" in check_sae(good(), oracle=lambda x: own_code(x, 1.01))["oracle"].found
    assert "shape" in check_sae(good(), oracle=lambda x: (own_code(x)[0].T, None))["oracle"].found


def poked(folder: Path, **tensors: Tensor) -> Path:
    """Write the good SAE in the native format, with other tensors put into the file behind saebench's back."""
    save_native(good(), folder)
    file = folder / "sae.safetensors"
    save_file(load_file(file) | tensors, file)
    return folder


def not_passed(path: Path) -> dict[str, str]:
    report = check_sae(path)
    assert not report.ok
    assert report["round_trip"].found == "it does not load" and report.sha256 is None
    return {row.check: row.found for row in report.of("warn", "fail")}


def test_what_does_not_load_says_why_and_the_rest_is_skipped(tmp_path: Path):
    nan = B.clone()
    nan[3] = math.nan
    found = not_passed(poked(tmp_path / "nan", b_dec=nan))
    assert found.keys() == {"loads", "finite"} and "b_dec" in found["finite"]
    found = not_passed(poked(tmp_path / "shape", b_enc=torch.zeros(S + 1)))
    assert found.keys() == {"loads", "shapes"} and "b_enc" in found["shapes"]
    wide = {name: torch.cat([t, t[..., :1]], -1) for name, t in {"W_enc": W.T, "b_enc": torch.zeros(S)}.items()}
    found = not_passed(poked(tmp_path / "wide", **wide, W_dec=torch.cat([W, W[:1]])))
    assert found.keys() == {"loads", "headers"} and "d_sae" in found["headers"]
    save_native(replace_config(good(), k=0), tmp_path / "k")
    assert not_passed(tmp_path / "k").keys() == {"loads", "shapes"}


def replace_config(sae: SAE, **changes: object) -> SAE:
    """Return the same SAE with settings that no SAE could be made with."""
    sae.config = replace(sae.config, **changes)
    return sae


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"acts": torch.zeros(5, D + 1)}, f"needs \\[tokens, {D}\\]"),
        ({"acts": torch.full((5, D), math.nan)}, "finite"),
        ({"acts": acts(), "target": acts()[:4]}, "target"),
        ({"acts": acts(), "model": "reference"}, "not both"),
        ({"corpus": "storyworld"}, "--model"),
        ({"acts": "nowhere.npy"}, "no such file"),
        ({"acts": __file__}, r"\.npy or \.safetensors"),
    ],
)
def test_acts_that_do_not_fit_are_input_errors(options: dict, said: str):
    with pytest.raises(InputError, match=said):
        check_sae(good(), **options)
