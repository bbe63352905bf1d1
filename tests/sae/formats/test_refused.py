"""What is recognised only to be refused: each kind in its documented layout, one line each, nothing executed."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae, list_saes
from saebench.sae.source import Source
from tests.sae.formats.cases import D, S, rand

M = 2
"""Models or layers of a crosscoder."""


def put(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    if name.endswith(".safetensors"):
        save_file({key: one.contiguous() for key, one in tensors.items()}, file)
    else:
        torch.save(tensors, file)


def circuit_tracer_clt(folder: Path) -> None:
    for n in range(3):
        put(folder, f"W_enc_{n}.safetensors", {f"W_enc_{n}": rand(S, D), f"b_enc_{n}": rand(S), f"b_dec_{n}": rand(D)})
        put(folder, f"W_dec_{n}.safetensors", {f"W_dec_{n}": rand(S, 3 - n, D)})
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_kind": "cross_layer_transcoder"}))


def clt_without_weights(folder: Path) -> None:
    links = ["hf://google/gemma-scope-2-1b-it/clt/width_262k_l0_medium/params_layer_0.safetensors"]
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_kind": "cross_layer_transcoder", "transcoders": links}))


def circuit_tracer_links(folder: Path) -> None:
    links = ["hf://google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76/params.npz"]
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_kind": "transcoder_set", "transcoders": links}))


def crosslayer_coding(folder: Path) -> None:
    tensors = {f"encoder_module.encoders.{n}.weight": rand(S, D) for n in range(2)}
    tensors |= {f"decoder_module.decoders.{s}->{t}.weight": rand(D, S) for s, t in ((0, 0), (0, 1), (1, 1))}
    put(folder, "clt_checkpoint_latest.safetensors", tensors | {"theta.log_threshold": rand(2, S)})
    (folder / "cfg.json").write_text(json.dumps({"num_features": S, "num_layers": 2, "d_model": D}))


def crosscoder_of_two_models(folder: Path) -> None:
    put(folder, "cc_weights.pt", {"W_enc": rand(M, D, S), "W_dec": rand(S, M, D), "b_enc": rand(S), "b_dec": rand(M, D)})
    (folder / "cfg.json").write_text(json.dumps({"dict_size": S, "d_in": D, "hook_point": "blocks.14.hook_resid_pre"}))


def crosscoder_by_version(folder: Path) -> None:
    put(folder, "0.pt", {"W_enc": rand(M, D, S), "W_dec": rand(S, M, D), "b_enc": rand(S), "b_dec": rand(M, D)})
    (folder / "0_cfg.json").write_text(json.dumps({"dict_size": S, "act_name": "blocks.14.hook_resid_pre", "act_size": D}))


def crosscoder_layers() -> dict[str, Tensor]:
    return {
        "encoder.weight": rand(M, D, S), "encoder.bias": rand(S), "decoder.weight": rand(M, S, D), "decoder.bias": rand(M, D),
    }  # fmt: skip


def crosscoder_of_the_hub(folder: Path) -> None:
    more = {"code_normalization_id": torch.tensor(1), "k": torch.tensor(9), "threshold": torch.tensor(0.5)}
    put(folder, "model.safetensors", crosscoder_layers() | more | {"activation_mean": torch.full((M, D), torch.nan)})
    (folder / "config.json").write_text(json.dumps({"activation_dim": D, "dict_size": S, "num_layers": M}))


def crosscoder_without_settings(folder: Path) -> None:
    put(folder, "model_final.pt", crosscoder_layers())


def crosscoder_compiled(folder: Path) -> None:
    put(folder, "model_final.pt", {f"_orig_mod.{key}": one for key, one in crosscoder_layers().items()})


def crosscoder_of_unlike_models(folder: Path) -> None:
    put(folder, "model.safetensors", {"encoder.projections.0.weight": rand(S, D), "encoder.projections.1.weight": rand(S, D + 1)})


def temporal_sae(folder: Path) -> None:
    put(folder, "latest_ckpt.safetensors", {"D": rand(S, D), "b": rand(1, D), "attn_layers.0.k_ctx.weight": rand(D, S)})
    (folder / "conf.yaml").write_text(yaml.safe_dump({"llm": {"dimin": D}, "sae": {"exp_factor": 3}}))


def temporal_sae_of_training(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    inner = {"D": rand(S, D), "b": rand(1, D), "attn_layers.0.k_ctx.weight": rand(D, S)}
    torch.save({"sae": inner, "step": 3}, folder / "latest_ckpt.pt")


def switch_sae(folder: Path) -> None:
    tensors = {"encoder.weight": rand(S, D), "router.weight": rand(4, D), "decoder": rand(S, D), "b_dec": rand(D)}
    put(folder, "ae.pt", tensors | {"b_router": rand(D)})
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "SwitchAutoEncoder", "k": 4, "experts": 4}}))


def prefix_matryoshka(folder: Path) -> None:
    tensors = {"W_enc": rand(D, S), "b_enc": rand(S), "W_dec": rand(S, D), "b_dec": rand(D)}
    put(folder, "8-res.pt", tensors | {"normalizer.running_avg": rand(1), "sq_act_running_avg": rand(S)})


def pickled(folder: Path, name: str, made: str, wrap: Callable[[object], object] = lambda one: one) -> None:
    """Save an object of the class ``made``, whose module is gone again afterwards."""
    module, _, kind = made.rpartition(".")
    parts = module.split(".")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))]
    assert not any(one in sys.modules for one in names)
    cls = type(kind, (), {"__module__": module})
    try:
        for one in names:
            sys.modules[one] = types.ModuleType(one)
        setattr(sys.modules[module], kind, cls)
        thing = cls()
        vars(thing).update(weight=rand(S, D), k=4)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(wrap(thing), folder / name)
    finally:
        for one in names:
            sys.modules.pop(one, None)


def overcomplete_module(folder: Path) -> None:
    pickled(folder, "model.pth", "overcomplete.sae.topk_sae.TopKSAE")


def ai_safety_foundation(folder: Path) -> None:
    pickled(folder, "sparse_autoencoder.pt", "sparse_autoencoder.autoencoder.model.SparseAutoencoderState")


def learned_dicts(folder: Path) -> None:
    pickled(folder, "learned_dicts.pt", "autoencoders.learned_dict.TiedSAE", lambda one: [(one, {"l1_alpha": 1e-3})])


KINDS = {
    circuit_tracer_clt: ("circuit_tracer_clt", "cross-layer transcoder"),
    clt_without_weights: ("circuit_tracer_clt", "cross-layer transcoder"),
    circuit_tracer_links: ("circuit_tracer_links", "fetch the files"),
    crosslayer_coding: ("crosslayer_coding", "crosslayer-coding"),
    crosscoder_of_two_models: ("crosscoder", "is a crosscoder"),
    crosscoder_by_version: ("crosscoder", "is a crosscoder"),
    crosscoder_of_the_hub: ("crosscoder", "is a crosscoder"),
    crosscoder_without_settings: ("crosscoder", "is a crosscoder"),
    crosscoder_compiled: ("crosscoder", "is a crosscoder"),
    crosscoder_of_unlike_models: ("crosscoder", "is a crosscoder"),
    temporal_sae: ("temporal_sae", "attention of its own"),
    temporal_sae_of_training: ("temporal_sae", "attention of its own"),
    switch_sae: ("switch_sae", "a router"),
    prefix_matryoshka: ("prefix_matryoshka", "running norm"),
    overcomplete_module: ("overcomplete_module", r"state_dict.*--set class=NAME"),
    ai_safety_foundation: ("ai_safety_foundation", "nothing was executed"),
    learned_dicts: ("learned_dicts", "nothing was executed"),
}


@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
def test_it_is_named_and_refused_in_one_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    kind, said = KINDS[write]
    path = tmp_path / "it"
    path.mkdir()
    write(path)
    for read in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=said) as error:
            read(path)
        line = str(error.value)
        assert line.startswith(str(path)) and "not supported" in line and ";" in line and "\n" not in line
    weights = sorted(one for one in path.iterdir() if one.suffix not in (".json", ".yaml"))
    for file in weights:  # each file named alone, too
        with pytest.raises(InputError, match=said):
            load_sae(file)
    rows = list_saes(path)
    assert [row["format"] for row in rows] == [kind]
    assert "not supported" in str(rows[0]["refused"])


def test_every_kind_is_tested_and_listed_as_recognised_only() -> None:
    listed = {name for name, member in FORMATS.items() if (member.__doc__ or "").startswith("Recognised only")}
    assert listed == {kind for kind, _ in KINDS.values()}


def test_the_list_of_what_is_looked_for_leaves_them_out(tmp_path: Path) -> None:
    put(tmp_path, "model.pt", {"wte.weight": rand(D, S)})
    with pytest.raises(InputError, match="Looked for") as error:
        load_sae(tmp_path)
    assert "crosscoder" not in str(error.value)


def test_any_other_pickle_of_objects_is_named_by_its_class(tmp_path: Path) -> None:
    pickled(tmp_path, "sae.pt", "somebodys_saes.model.MySAE")
    with pytest.raises(InputError, match=r"wants to run somebodys_saes\.model\.MySAE; refused, nothing was executed"):
        load_sae(tmp_path / "sae.pt")
    assert "somebodys_saes" not in sys.modules


def test_plain_saes_beside_them_are_none(tmp_path: Path) -> None:
    """The same names of tensors with the shapes of an SAE."""
    flat = {"W_enc": rand(D, S), "W_dec": rand(S, D), "b_enc": rand(S), "b_dec": rand(D)}
    put(tmp_path, "0.pt", flat)
    linear = {"encoder.weight": rand(S, D), "encoder.bias": rand(S), "decoder.weight": rand(D, S), "decoder.bias": rand(D)}
    put(tmp_path, "1.pt", linear)
    for file in ("0.pt", "1.pt"):
        source = Source(tmp_path / file)
        assert [kind for kind, _ in KINDS.values() if FORMATS.get(kind).detect(source) is not None] == []
