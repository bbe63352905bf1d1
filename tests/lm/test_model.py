"""Naming devices: whatever is absent is one line, before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from saebench.errors import InputError
from saebench.lm.model import parse_device


def test_what_is_here_is_taken() -> None:
    assert parse_device("cpu") == torch.device("cpu")
    assert parse_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("device", ["xpu:9", "meta", "gpu9", "cuda:99", "mps"])
def test_what_is_absent_is_one_line(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has MPS")
    with pytest.raises(InputError, match="device") as caught:
        parse_device(device)
    assert "\n" not in str(caught.value)
    assert "cpu" in str(caught.value)
