"""Ablations of latents, from their positions on and in batches, against a full forward for each.

GPT-2 small (random weights), contexts of 64 tokens, a TopK SAE of 24,576 latents (k = 32) behind block 8, effects over 16
positions: the sizes of Gao et al. 2024, §4.5. Both sides take the same active latents out of the clean stream at the same
sampled tokens. Ours is the study's code: prefix, keys and values, encoding, ablations, and the sums that its tables are
made of. The peer is what one would write first with transformers: a hook behind block 8 subtracts f_j W_dec[j] at the
token, the whole model runs on the whole context, the logits of the same context unchanged (made once a token) are taken
off at 16 positions, then torch's median and norms. It is timed with one ablation a forward, and with as many ablations of
one token as ``--batch`` says. It gets a sample of the tokens (``--peer-tokens``). The sides are timed in turn; seconds
are the processor's. Sparsities are compared one by one.

    python benchmarks/ablation.py --shared ../shared --json benchmarks/figures/ablation.json

``peak_gb`` is that of a process of its own that runs the whole study (clean, spliced, baselines, tables) and nothing else, model
and libraries included. ``--shared`` is a folder with ``models/gpt2-tokenizer``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.model import load_model
from saebench.lm.onward import Onward
from saebench.lm.port import Port
from saebench.provenance import machine, peak_memory_bytes, versions
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.stream import default_batch_size
from saebench.studies.ablation import Ablation, AblationSettings
from saebench.studies.ablation.measure import effects
from saebench.studies.ablation.removed import Tokens, active_latents
from saebench.studies.ablation.sample import FEWER, Sampled, in_parts, sample_tokens
from saebench.studies.ablation.tables import Moved
from saebench.studies.base import StudySetting
from saebench.tasklist import TaskCorpus

BLOCK, SITE = 8, "blocks.8.hook_resid_post"
LENGTH, WIDTH = 64, 16
TOLERANCE = 1e-4
Found = dict[tuple[int, int], float]
"""(token, latent) → sparsity."""


def make_sae(d_model: int, d_sae: int, k: int) -> SAE:
    """Return a TopK SAE of random directions."""
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=torch.Generator().manual_seed(0)), dim=1)
    config = SAEConfig(activation="topk", d_in=d_model, d_out=d_model, d_sae=d_sae, k=k, site=SITE)
    zero = torch.zeros(d_model)
    return SAE(config, SAEWeights(W_enc=rows.T.contiguous(), b_enc=torch.zeros(d_sae), W_dec=rows, b_dec=zero))


def make_corpus(d_vocab: int, n: int) -> Corpus:
    """Return contexts of random tokens."""
    tokens = torch.randint(d_vocab - 1, (n, LENGTH), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = d_vocab - 1
    valid = torch.ones_like(tokens, dtype=torch.bool)
    scored = valid.clone()
    scored[:, 0] = False
    return Corpus(
        tokens=tokens, valid=valid, scored=scored, name="random", origin="random", revision=None, sha256="0",
        context_length=LENGTH, rule="random", warnings=(),
    )  # fmt: skip


@torch.inference_mode()
def ours(port: Port, onward: Onward, sae: SAE, corpus: Corpus, sampled: Sampled) -> tuple[float, Found]:
    """Return (seconds, sparsities) of all sampled tokens."""
    started = time.process_time()
    found: Found = {}
    moved, size = Moved(sae.config.d_sae), default_batch_size(LENGTH, port.model.device)
    for part in in_parts(sampled, width=WIDTH, size=size // FEWER):
        numbers = part.number
        row, position = torch.from_numpy(part.row), torch.from_numpy(sampled.position[numbers])
        clean = port.clean(corpus.tokens[part.context, : part.length], final=False)
        tokens = Tokens(
            numbers=numbers.tolist(),
            row=row,
            position=position,
            acts=clean.acts[row, position],
            target=clean.target[row, position],
        )
        removed = active_latents(port, sae, tokens, per_token=None, seed=0)
        base = onward.base(clean)
        for effect in effects(onward, base, tokens, removed, at_once=onward.at_once(LENGTH, size * LENGTH)):
            moved.add(removed.which[effect.part].numpy(), effect.change)
            of = zip(numbers[removed.token[effect.part].numpy()].tolist(), removed.which[effect.part].tolist(), strict=True)
            found |= zip(of, effect.sizes.sparsity(port.model.d_vocab).tolist(), strict=True)
    return time.process_time() - started, found


@torch.inference_mode()
def full_forwards(hf: Any, sae: SAE, corpus: Corpus, sampled: Sampled, chosen: list[int], batch: int) -> tuple[float, Found]:
    """Return (seconds, sparsities) of some tokens, the whole model run for every ablation."""
    started = time.process_time()
    found: Found = {}
    for number in chosen:
        context, position = int(sampled.context[number]), int(sampled.position[number])
        tokens = corpus.tokens[context, None]
        window = slice(position, position + WIDTH)
        acts: list[Tensor] = []

        def keep(_module: Any, _args: Any, out: Any, acts: list[Tensor] = acts, position: int = position) -> None:
            acts.append(hidden(out)[0, position].clone())

        handle = hf.transformer.h[BLOCK].register_forward_hook(keep)
        clean = hf(tokens).logits[0, window]
        handle.remove()
        latents = sae.encode(acts[0][None])
        pairs = list(zip(latents.indices.tolist(), latents.values, strict=True))
        for start in range(0, len(pairs), batch):
            some = pairs[start : start + batch]
            taken_out = torch.stack([value * sae.W_dec[j] for j, value in some])

            def subtract(_module: Any, _args: Any, out: Any, taken_out: Tensor = taken_out, position: int = position) -> Any:
                hidden(out)[:, position] -= taken_out
                return out

            handle = hf.transformer.h[BLOCK].register_forward_hook(subtract)
            logits = hf(tokens.expand(len(some), -1)).logits[:, window]
            handle.remove()
            e = logits - clean
            e = e - e.median(2, keepdim=True).values
            sparsity = e.abs().sum((1, 2)) ** 2 / e.square().sum((1, 2)) / e[0].numel()
            found |= {(number, j): float(s) for (j, _), s in zip(some, sparsity, strict=True)}
    return time.process_time() - started, found


def hidden(out: Any) -> Tensor:
    """Return the hidden states that a block returns."""
    return out[0] if isinstance(out, tuple) else out


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Time the sides in turn and compare what they find."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    model = load_model(folder, device="cpu")
    port, sae = Port(model, SITE), make_sae(model.d_model, args.d_sae, args.k)
    corpus = make_corpus(model.d_vocab, args.contexts)
    sampled = sample_tokens(corpus, n=args.tokens, width=WIDTH, seed=0)
    onward = Onward(port, LENGTH, WIDTH)
    chosen = np.linspace(0, len(sampled.context) - 1, args.peer_tokens).astype(int).tolist()
    rates: dict[str, list[float]] = {"saebench": [], "full_forward": [], "full_forward_batched": []}
    gap, found, wanted = 0.0, {}, {}
    for number in range(args.rounds):
        seconds, found = ours(port, onward, sae, corpus, sampled)
        rates["saebench"].append(len(found) / seconds)
        for name, batch in (("full_forward", 1), ("full_forward_batched", args.batch)):
            seconds, wanted = full_forwards(hf, sae, corpus, sampled, chosen, batch)
            rates[name].append(len(wanted) / seconds)
            gap = max(gap, *(abs(found[key] - value) for key, value in wanted.items()))
        print(f"round {number}: { ({k: round(v[-1], 2) for k, v in rates.items()}) } a second", file=sys.stderr, flush=True)
    if gap > TOLERANCE:
        raise SystemExit(f"sparsities differ by {gap:.2g}")
    row: dict[str, Any] = {
        "model": "GPT-2 small, random weights", "site": SITE, "d_sae": args.d_sae, "k": args.k, "context": LENGTH,
        "positions": WIDTH, "tokens": len(sampled.context), "ablations": len(found), "peer_tokens": len(chosen),
        "peer_ablations": len(wanted), "batch": args.batch, "rounds": args.rounds, "threads": args.threads,
        "from_position": onward.from_position, "largest_difference": gap, "mean_sparsity": float(np.mean(list(found.values()))),
    }  # fmt: skip
    for name, values in rates.items():
        row[f"{name}_per_s"] = round(statistics.median(values), 2)
        if name != "saebench":
            ratios = sorted(mine / theirs for mine, theirs in zip(rates["saebench"], values, strict=True))
            row[f"{name}_ratio"] = {
                "median": round(statistics.median(ratios), 2), "min": round(ratios[0], 2), "max": round(ratios[-1], 2)
            }  # fmt: skip
    return row


def whole_study(folder: str, args: argparse.Namespace) -> None:
    """Run the study once and print the peak of this process."""
    model = load_model(folder, device="cpu")
    settings = AblationSettings(
        corpus=TaskCorpus(source="random", n_contexts=args.contexts), tokens=args.memory_tokens, positions=WIDTH
    )
    setting = StudySetting(port=Port(model, SITE), seed=0, corpus=make_corpus(model.d_vocab, args.contexts))
    Ablation(setting, settings).run([make_sae(model.d_model, args.d_sae, args.k)])
    print(peak_memory_bytes())


def write_model(shared: Path, folder: Path) -> str:
    """Write GPT-2 small with random weights; return its folder."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config.from_pretrained(shared / "models/gpt2-tokenizer")).save_pretrained(folder)
    AutoTokenizer.from_pretrained(shared / "models/gpt2-tokenizer").save_pretrained(folder)
    return str(folder)


def main() -> None:
    """Measure, print a line, and with ``--json`` write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--d-sae", type=int, default=24_576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--contexts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--peer-tokens", type=int, default=2)
    parser.add_argument("--memory-tokens", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--study-in", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.study_in:
        return whole_study(args.study_in, args)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_model(args.shared, Path(temporary) / "gpt2")
        keys = ("d_sae", "k", "contexts", "memory_tokens", "threads")
        told = [word for key in keys for word in (f"--{key.replace('_', '-')}", str(getattr(args, key)))]
        words = [sys.executable, __file__, "--shared", str(args.shared), "--study-in", folder, *told]
        peak = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1])
        row = measure(args, folder) | {"peak_gb": round(peak / 1e9, 3)}
    print(json.dumps(row, indent=1))
    if args.json:
        args.json.write_text(json.dumps(row | {"machine": machine("cpu"), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
