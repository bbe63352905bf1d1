"""The reference model: its tokenizer, its text, its losses, and what a run leaves."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from saebench.data import CorpusSpec, build_corpus
from saebench.data.storyworld import write
from saebench.errors import IncompleteError, InputError
from saebench.lm.model import load_model
from saebench.progress import SilentProgress
from saebench.trainers import reference_lm
from saebench.trainers.reference_card import write_card
from saebench.trainers.reference_config import ReferenceConfig, command, make_model, settings
from saebench.trainers.reference_lm import ReferenceTrainer, train_reference
from saebench.trainers.reference_optim import Muon, learning_rate, orthogonal
from saebench.trainers.reference_text import END, END_ID, TextStream, held_out, save_tokenizer, train_tokenizer

TINY: dict[str, Any] = {
    "steps": 24, "batch_size": 8, "context_length": 32, "d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 400,
    "tokenizer_documents": 30, "lr": 1e-2, "warmup": 4, "decay_steps": 10, "eval_every": 6, "eval_contexts": 12,
    "checkpoint_every": 5, "device": "cpu",
}  # fmt: skip


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def tiny(out: Path, **changes: Any) -> ReferenceConfig:
    return ReferenceConfig(out=out, **{**TINY, **changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(vocab_size=400, n_documents=30, seed=0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "model"
    assert train_reference(tiny(out)) == "all 24 steps were done"
    return out


def curve(folder: Path) -> list[dict[str, float]]:
    with open(folder / "curve.csv", newline="") as handle:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]


def test_tokenizer_is_the_same_every_time_and_loses_nothing(tokenizer, tmp_path):
    code = (
        "from saebench.trainers.reference_text import train_tokenizer; import sys; "
        "sys.stdout.write(train_tokenizer(vocab_size=400, n_documents=30, seed=0).to_str())"
    )
    env = {**os.environ, "RAYON_NUM_THREADS": "2"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert other.stdout == tokenizer.to_str()
    save_tokenizer(tokenizer, tmp_path, context_length=32)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.bos_token, len(loaded)) == (END_ID, END_ID, END, 400)
    assert loaded.is_fast and loaded.model_max_length == 32
    for text in [write(0, "eval", i).text for i in range(5)] + ["Zürich → 東京 \t\r\n  two spaces"]:
        assert loaded.decode(loaded(text, add_special_tokens=False)["input_ids"]) == text
    assert loaded("A b", return_offsets_mapping=True)["offset_mapping"][-1][1] == 3


def test_contexts_are_those_of_the_harness(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path, context_length=32)
    hf = AutoTokenizer.from_pretrained(tmp_path)
    spec = CorpusSpec(source="storyworld", context_length=32, n_contexts=300)
    corpus = build_corpus(spec, hf, seed=3, max_context=32, vocab_size=400)
    stream = TextStream(tokenizer, seed=3, part="eval", context_length=32)
    batches = torch.cat([stream.batch(n) for n in (1, 99, 200)])
    assert torch.equal(batches[:, :-1], corpus.tokens)
    assert torch.equal(batches[:-1, -1], batches[1:, 1])  # the last column is what comes next
    text = held_out(tokenizer, seed=3, part="eval", context_length=32, n_contexts=300)
    assert torch.equal(text.tokens, corpus.tokens)


def test_stream_goes_on_and_is_the_same_with_workers(tokenizer):
    call: dict[str, Any] = {"seed": 0, "part": "train", "context_length": 32}
    plain, other = TextStream(tokenizer, **call), TextStream(tokenizer, workers=1, **call)
    try:
        first = plain.batch(1500)
        assert torch.equal(first, other.batch(1500))
        state = other.state()
        following = other.batch(700)
        assert torch.equal(following, plain.batch(700))
        other.restore(state)
        assert torch.equal(following, other.batch(700))
    finally:
        other.close()
    assert not torch.equal(first, following[:1]) and len(first.unique(dim=0)) > 1490


def test_every_third_document_is_a_chronicle_for_as_long_as_is_asked(tokenizer):
    call: dict[str, Any] = {"seed": 0, "part": "train", "context_length": 32}
    plain, more = TextStream(tokenizer, **call), TextStream(tokenizer, chronicles=7, **call)
    ids = [tokens[:, 1:-1].flatten().tolist() for tokens in (plain.batch(3000), more.batch(3000))]
    documents = [tokenizer.decode(own, skip_special_tokens=False).split(END) for own in ids]
    ours = [write(0, "train", i, "chronicle" if i in (0, 3, 6) else "").text for i in range(12)]
    assert documents[1][:12] == ours
    assert documents[0][:12] == [write(0, "train", i).text for i in range(12)]
    assert documents[0][0] != documents[1][0] and documents[0][9] == documents[1][9]


def test_bound_is_the_documents_nats_over_their_tokens(tokenizer):
    documents = [write(1, "train", i) for i in range(40)]
    lengths = [len(tokenizer.encode(d.text).ids) + 1 for d in documents]
    n = (sum(lengths[:20]) + lengths[20] // 2) // 31
    share = (31 * n - sum(lengths[:20])) / lengths[20]
    expected = (sum(d.nats for d in documents[:20]) + share * documents[20].nats) / (31 * n)
    found = held_out(tokenizer, seed=1, part="train", context_length=32, n_contexts=n).bound
    assert 0 < share < 1 and math.isclose(found, expected, rel_tol=1e-12)


def test_loss_falls_and_the_curve_has_the_bound_beside_it(finished):
    rows = curve(finished)
    assert [row["step"] for row in rows] == [0, 6, 12, 18, 24]
    assert [row["tokens"] for row in rows] == [step * 8 * 32 for step in (0, 6, 12, 18, 24)]
    assert rows[-1]["ce_train"] < rows[0]["ce_train"] - 0.5 and rows[-1]["ce_eval"] < rows[0]["ce_eval"] - 0.5
    assert rows[-1]["loss"] < rows[1]["loss"]
    for row in rows:
        assert 0 < row["bound_train"] < row["ce_train"] and 0 < row["bound_eval"] < row["ce_eval"]
    assert (finished / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_curve_begins_at_uniform_but_for_what_it_costs_that_logits_differ(finished, tokenizer):
    """CE = ln V + that cost − what the model knows of the next token, which is next to nothing before it is trained."""
    config = tiny(finished)
    text = held_out(tokenizer, seed=config.seed + 1, part="train", context_length=32, n_contexts=config.eval_contexts)
    model = make_model(config, torch.bincount(text.tokens.flatten(), minlength=400))
    with torch.inference_mode():
        logits = model.eval()(input_ids=text.tokens[:, :-1]).logits.double()
    known = (logits.gather(2, text.tokens[:, 1:, None])[..., 0] - logits.mean(2)).mean()
    cost = (logits.logsumexp(2) - logits.mean(2)).mean() - math.log(400)
    assert abs(curve(finished)[0]["ce_train"] - float(math.log(400) + cost - known)) < 1e-5
    assert abs(float(known)) < 0.1
    assert float(cost) < float(logits.var(2).mean())  # normal logits cost half their variance


def test_folder_loads_everywhere_with_float16_weights(finished):
    with safe_open(finished / "model.safetensors", "pt") as file:
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}
    assert kinds == {"torch.float16"} and "lm_head.weight" not in load_file(finished / "model.safetensors")
    hf = AutoModelForCausalLM.from_pretrained(finished, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(finished)
    model = load_model(str(finished), device="cpu")
    assert (model.family, model.n_layers, model.d_model, model.n_ctx, model.d_vocab) == ("gpt2", 2, 32, 32, 400)
    spec = CorpusSpec(source="storyworld:train", n_contexts=12)
    corpus = build_corpus(spec, tokenizer, seed=1, max_context=model.n_ctx, vocab_size=model.d_vocab)
    with torch.inference_mode():
        logits = hf(input_ids=corpus.tokens).logits[:, :-1]
        assert torch.allclose(logits, model.hf(input_ids=corpus.tokens).logits[:, :-1], atol=1e-5)
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), corpus.tokens[:, 1:].flatten()).item()
    assert abs(ce - curve(finished)[-1]["ce_train"]) < 2e-3  # the CE told is that of these weights on this text
    assert sorted(p.name for p in finished.iterdir()) == [
        "README.md", "config.json", "curve.csv", "curve.png", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip


def test_card_tells_how_the_model_was_made(finished):
    card, last = (finished / "README.md").read_text(), curve(finished)[-1]
    weights = sum(t.numel() for t in load_file(finished / "model.safetensors").values())
    for part in (f"{weights:,} parameters", "all 24 steps were done", f"{last['ce_train']:.4f}", f"{last['bound_eval']:.4f}",
                 "python -m saebench.trainers.reference_lm --out FOLDER --steps 24", "| d_model | 32 |"):  # fmt: skip
        assert part in card
    assert "--vocab-size 400" in command(tiny(finished)) and "--device" not in command(tiny(finished))


def test_card_tells_of_chronicles_where_some_were_asked_for(tmp_path):
    row = {"step": 1, "tokens": 2, "seconds": 1.0} | {
        f"{what}_{part}": 1.0 for what in ("ce", "bound") for part in ("train", "eval")
    }
    for chronicles in (0, 30):
        write_card(
            tmp_path, parameters=1, settings=settings(tiny(tmp_path, chronicles=chronicles)), command="", rows=[row], why="",
            stored={"train": 1.0, "eval": 1.0}, device="cpu",
        )  # fmt: skip
        told = "every third of the first 30 documents was written as a chronicle" in (tmp_path / "README.md").read_text()
        assert told == bool(chronicles)


def test_where_heads_look_is_learned_with_the_weight_that_is_asked_for(tmp_path, tokenizer):
    learned = []
    for weight in (0.0, 1e-30, 0.2):
        trainer = ReferenceTrainer(tiny(tmp_path, look_weight=weight), tokenizer)
        trainer._one_step(SilentProgress())
        learned.append(trainer.model.transformer.h[1].attn.c_attn.weight.detach())
    assert torch.allclose(learned[0], learned[1], atol=1e-5) and (learned[0] - learned[2]).abs().max() > 1e-3


def test_training_reads_as_many_chronicles_as_are_asked_for_and_held_out_text_has_none(tmp_path, tokenizer):
    plain, more = (ReferenceTrainer(tiny(tmp_path, chronicles=n), tokenizer) for n in (0, 64))
    stream = TextStream(tokenizer, seed=0, part="train", context_length=32, chronicles=64)
    read = more._lessons.lesson(0).tokens
    assert torch.equal(read, stream.batch(8)) and not torch.equal(read, plain._lessons.lesson(0).tokens)
    assert all(torch.equal(plain._held_out[part].tokens, more._held_out[part].tokens) for part in ("train", "eval"))


def test_resume_ends_in_the_same_bytes(finished, tmp_path, monkeypatch):
    out, notes = tmp_path / "model", Notes()
    steps = itertools.count(1)
    one_step = ReferenceTrainer._one_step

    def and_then_ctrl_c(self: ReferenceTrainer, progress: SilentProgress) -> None:
        one_step(self, progress)
        if next(steps) in (8, 15):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ReferenceTrainer, "_one_step", and_then_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train_reference(tiny(out), progress=notes)
    assert notes.lines[-1] == f"stopped at step 8; --resume goes on from {out / 'checkpoint.pt'}"
    with pytest.raises(InputError, match="holds a run that was stopped; go on with --resume"):
        train_reference(tiny(out))
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        train_reference(tiny(out, lr=1e-3), resume=True)
    with pytest.raises(KeyboardInterrupt):
        train_reference(tiny(out), resume=True)
    train_reference(tiny(out), resume=True)
    assert next(steps) == 25
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()
    clock = {"seconds", "tokens_per_second"}
    rows, whole = ([{k: v for k, v in row.items() if k not in clock} for row in curve(f)] for f in (out, finished))
    assert rows == whole
    with pytest.raises(InputError, match="holds a finished model already"):
        train_reference(tiny(out), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path, monkeypatch):
    loss, calls = ReferenceTrainer.loss, itertools.count()

    def broken(self: ReferenceTrainer, *read: torch.Tensor) -> torch.Tensor:
        value = loss(self, *read)
        return value * math.nan if self.model.training and next(calls) == 8 else value

    monkeypatch.setattr(ReferenceTrainer, "loss", broken)
    with pytest.raises(IncompleteError) as error:
        train_reference(tiny(tmp_path / "a"))
    path = tmp_path / "a/checkpoint.pt"
    assert str(error.value) == f"the loss is nan at step 9; the last good checkpoint is {path}; try a smaller --lr"
    assert torch.load(path, weights_only=True)["step"] == 5
    calls = itertools.count()
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    with pytest.raises(IncompleteError, match="the gradient's norm is inf at step 1; no checkpoint was written yet"):
        train_reference(tiny(tmp_path / "b"))


def test_why_training_stops(tmp_path, tokenizer):
    trainer = ReferenceTrainer(tiny(tmp_path, patience=2), tokenizer)

    def why(*ces: float) -> str | None:
        trainer.rows = [{"ce_train": ce, "bound_train": 1.0} for ce in ces]
        return trainer._why_stop()

    assert why(6.0) is None and why(6.0, 3.0, 2.0) is None and why(1.151) is None
    assert why(6.0, 1.149) == "held-out CE came within 0.15 nats of the bound"
    assert why(6.0, 2.0, 1.999, 1.9985) == "held-out CE improved by less than 0.002 nats over 2 evaluations"
    assert why(6.0, 2.0, 1.999, 1.997) is None and why(2.0, 2.0) is None
    trainer.config = replace(trainer.config, stop_gap=0.0, patience=0)
    assert why(2.0, 1.1, 1.1, 1.1, 1.1) is None
    trainer.step = 24
    assert why(2.0) == "all 24 steps were done"


def test_learning_rate(tmp_path):
    config = tiny(tmp_path)
    assert [learning_rate(config, s) for s in range(5)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert [learning_rate(config, s) for s in (14, 19, 23, 24)] == pytest.approx([0.01, 0.005, 0.001, 0.0])


def test_a_run_can_end_elsewhere_until_the_learning_rate_falls(tmp_path, tokenizer, monkeypatch):
    def stopped(out, at, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(ReferenceTrainer, "_why_stop", lambda self: "stop" if self.step == at else None)
            patch.setattr(ReferenceTrainer, "_finish", lambda self, why: self.save())
            ReferenceTrainer(tiny(out, **changes), tokenizer).run(SilentProgress())

    short, long = tmp_path / "short", tmp_path / "long"
    short.mkdir()
    long.mkdir()
    stopped(short, 12, decay_steps=6, stop_gap=0.1, patience=9)
    stopped(long, 12, steps=40)
    ends = []
    for out in (short, long):
        trainer = ReferenceTrainer(tiny(out, steps=40), tokenizer)
        trainer.run(SilentProgress())
        ends.append([p.clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    late = tmp_path / "late"
    late.mkdir()
    stopped(late, 18)
    with pytest.raises(InputError, match=r"has done 18 of 24 steps; .* give --steps 24 --decay-steps 10"):
        ReferenceTrainer(tiny(late, steps=40), tokenizer)
    with pytest.raises(InputError, match="has done 18 of 24 steps"):
        ReferenceTrainer(tiny(late, decay_steps=6), tokenizer)
    assert ReferenceTrainer(tiny(late, stop_gap=0.1), tokenizer).step == 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 30, "n_heads": 4}, "--d-model 30 does not divide by --n-heads 4; choose a multiple"),
        ({"eval_every": 0}, "--eval-every must be 1 or more, got 0"),
        ({"lr": math.nan}, "--lr must be more than 0, got nan"),
        ({"lr": math.inf}, "--lr must be more than 0, got inf"),
        ({"look_weight": -0.1}, "--look-weight must be 0 or more, got -0.1"),
        ({"look_weight": math.nan}, "--look-weight must be 0 or more, got nan"),
        ({"repeat_weight": math.inf}, "--repeat-weight must be 0 or more, got inf"),
        ({"chronicles": -1}, "--chronicles must be 0 or more, got -1"),
        ({"d_model": 4, "n_heads": 4}, "--d-model must be 8 or more, got 4"),
        ({"seed": 1 << 32}, "--seed must be less than 4294967296, got 4294967296"),
        ({"vocab_size": 200}, "a byte-level vocabulary has more than 256 and at most 65536 tokens, got 200"),
        ({"vocab_size": 9000}, "30 documents are too few for a vocabulary of 9000, they give"),
        ({"device": "abacus"}, "unknown device 'abacus'; use auto, cpu, cuda or cuda:N"),
    ],
)
def test_impossible_settings(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        train_reference(tiny(tmp_path / "x", **changes))
    assert str(error.value).startswith(message)
    assert not (tmp_path / "x/tokenizer.json").exists()  # nothing was begun


def test_command_line(tmp_path, capsys, monkeypatch):
    words = [f"--{k.replace('_', '-')}={v}" for k, v in {**TINY, "steps": 2, "decay_steps": 1}.items()]
    monkeypatch.setattr(sys, "argv", ["reference_lm", "--out", str(tmp_path / "m"), *words])
    assert reference_lm.main() == 0
    assert "all 2 steps were done; the model is in" in capsys.readouterr().err
    assert json.loads((tmp_path / "m/config.json").read_text())["n_embd"] == 32
    assert reference_lm.main() == 2 and "holds a finished model already" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reference_lm", "--help"])
    assert reference_lm.main() == 0
    told = capsys.readouterr().out
    assert "--resume" in told and "--tokenizer-documents" in told
    monkeypatch.setattr(sys, "argv", ["reference_lm"])
    assert reference_lm.main() == 2 and "--out" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_muon_steps_as_torchs_does(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    grads = [torch.randn(shape, generator=generator) for _ in range(3)]
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    pairs = [
        (ours, Muon([ours], lr=0.1, weight_decay=0.1, dtype=torch.bfloat16)),
        (theirs, torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")),
    ]
    for grad in grads:
        for weight, optimizer in pairs:
            weight.grad = grad.clone()
            optimizer.step()
    moved = (theirs - start).abs().max()
    assert (ours - theirs).abs().max() < 0.02 * moved  # bfloat16 rounds in another order
    values = torch.linalg.svdvals(orthogonal(grads[0]))
    assert 0.5 < values.min() and values.max() < 1.3
