"""What torch writes is read as torch reads it, whatever the layout; tests/sae/hostile has what is refused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae.reading import stored
from saebench.sae.reading.containers import load_torch, open_torch, stored_torch
from saebench.sae.reading.inert import Inert, stand_ins
from saebench.sae.reading.mapped import Maps
from tests.sae.formats.cases import D, S, rand
from tests.sae.formats.mats_files import NAME, write


def views() -> dict[str, Any]:
    w = rand(S, D)
    return {
        "whole": w, "turned": w.T, "part": w[3:9, 2:7], "steps": w[::3, ::2], "row": w[4], "again": w, "one": torch.tensor(3.5),
        "one many times": torch.full((1,), 0.3).expand(S), "no rows": torch.zeros(0, D), "parameter": torch.nn.Parameter(rand(D)),
    }  # fmt: skip


def kinds() -> dict[str, Any]:
    return {str(kind): torch.ones(2, 3).to(kind) for kind in (
        torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
        torch.complex64,
    )}  # fmt: skip


def data() -> dict[str, Any]:
    return {
        "text": "ü", "none": None, "yes": True, "n": -5, "large": 1 << 70, "x": 2.5, "list": [1, [2, (3, {"a": b"bytes"})]],
        "set": {1, 2}, "dtype": torch.bfloat16, "device": torch.device("cuda:1"), "size": rand(S, D).shape, 7: "a number",
        "complex": 1 + 2j, "array": bytearray(b"abc"), "ordered": OrderedDict([("b", 1), ("a", 2)]),
    }  # fmt: skip


def module() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(D, S), torch.nn.BatchNorm1d(S)).state_dict()


def optimizer() -> Any:
    weight = torch.nn.Parameter(rand(S, D))
    adam = torch.optim.Adam([weight])
    weight.grad = rand(S, D, seed=1)
    adam.step()
    return {"optimizer": adam.state_dict(), "rng": torch.get_rng_state()}


def same(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(a.detach(), b) and not b.requires_grad
    elif isinstance(a, torch.dtype | torch.device):
        assert str(a).removeprefix("torch.") == getattr(b, "name", b)
    elif isinstance(a, dict):
        assert type(a) is type(b) and list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("made", [views, kinds, data, module, optimizer])
def test_what_torch_writes(tmp_path: Path, made: Callable[[], Any], zipped: bool, protocol: int) -> None:
    file, content = tmp_path / "x.pt", made()
    torch.save(content, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    same(content, open_torch(file, Maps()))
    same(content, load_torch(file))


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("made", [views, kinds])
def test_tensors_may_be_left_where_they_lie(tmp_path: Path, made: Callable[[], Any], zipped: bool) -> None:
    file, content = tmp_path / "x.pt", made()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = stored_torch(file)
    assert list(found) == list(content)
    for key, tensor in content.items():
        header, array = found[key].header, found[key].array()
        assert header == (tensor.shape, str(tensor.dtype).removeprefix("torch.")) and array.shape == tensor.shape
        assert torch.equal(torch.tensor(array).to(tensor.dtype), tensor.detach())


def test_what_is_left_there_is_small_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": rand(S, D), "odd": torch.ones(3).to(torch.float8_e5m2)}, tmp_path / "x.pt")
    found = stored_torch(tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt has a tensor of float8_e5m2 \[3\] where a few numbers are expected"):
        found["odd"].array()
    monkeypatch.setattr(stored, "_SMALL", 4 * S * D - 1)
    with pytest.raises(InputError, match=r"x\.pt has a tensor of float32"):
        found["w"].array()
    monkeypatch.undo()
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:300])
    with pytest.raises(InputError, match="changed while it was read"):
        found["w"].array()


def test_dtypes_that_have_no_storage_of_their_own(tmp_path: Path) -> None:
    content = {"a": torch.arange(6).to(torch.uint16), "b": torch.ones(2, 3).to(torch.float8_e4m3fn)}
    torch.save(content, tmp_path / "x.pt")
    found = open_torch(tmp_path / "x.pt", Maps())
    assert torch.equal(found["a"].int(), content["a"].int()) and torch.equal(found["b"].float(), content["b"].float())


def test_pickles_that_torch_does_not_write_are_read_too(tmp_path: Path) -> None:
    """Protocols 0 and 1 spell everything in other opcodes; a bare tensor is no dictionary."""
    torch.save({"a": [1, 2.5, "x", None, True], "w": rand(S, D)}, tmp_path / "x.pt", pickle_protocol=1)
    same({"a": [1, 2.5, "x", None, True], "w": rand(S, D)}, open_torch(tmp_path / "x.pt", Maps()))
    torch.save(rand(S, D), tmp_path / "y.pt")
    assert torch.equal(open_torch(tmp_path / "y.pt", Maps()), rand(S, D))
    with pytest.raises(InputError, match="expected a dictionary"):
        load_torch(tmp_path / "y.pt")


def test_stand_ins_keep_attributes_and_nothing_else_is_let_in(tmp_path: Path) -> None:
    file = write(tmp_path / NAME)
    found = open_torch(file, Maps(), inert=stand_ins(file, ["sae_training"]))
    assert isinstance(found["cfg"], Inert) and found["cfg"].attributes["hook_point"] == "blocks.8.hook_resid_pre"
    with pytest.raises(InputError, match=r"wants to run sae_training\.config\.LanguageModelSAERunnerConfig"):
        open_torch(file, Maps())
