"""Task ``core`` against sae-bench 0.6.0's ``core``, on the same model, SAEs and tokens, in turn.

Seconds are those of the evaluation alone (models and SAEs loaded); peak memory is the whole process's. Both sides run the same
number of threads and contexts at a time. sae-bench scores SAEs one after the other, so its time for many is measured on two
of them and given per SAE.

    python benchmarks/core.py --peers .venv-peers/bin/python --shared ../shared

``--peers`` is the interpreter of an environment with sae-bench 0.6.0 (it needs transformer-lens below 4); ``--shared`` a folder
with ``models/stories260K``, ``models/gpt2-tokenizer``, ``saes/stories260K`` and ``data``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


def call(python: str, script: str, *words: str) -> Any:
    """Run a script and return the JSON object on its last line."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "SPARSIFY_DISABLE_TRITON": "1"}
    done = subprocess.run([python, str(HERE / script), *words], capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else None


def case(
    name: str, args: argparse.Namespace, model: str, saes: list[str], tokens: str, batch: int, rounds: int
) -> dict[str, Any]:
    """Measure one case, the two sides in turn, and return medians and ratios."""
    shape = np.load(tokens, mmap_mode="r").shape
    common = ["--model", model, "--tokens", tokens, "--batch", str(batch), "--threads", str(args.threads)]
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(call(args.peers, "peers/sae_bench_core.py", *common, *_named(saes[:2])))
        ours.append(call(sys.executable, "ours_core.py", *common, *_named(saes)))
    peer = [statistics.mean(r["seconds"]) for r in theirs]
    own = [r["seconds"][0] / len(saes) for r in ours]
    pairs = sorted(p / o for p, o in zip(peer, own, strict=True))
    row = {
        "case": name,
        "tokens": int(np.prod(shape)),
        "saes": len(saes),
        "rounds": rounds,
        "sae_bench_s_per_sae": round(statistics.median(peer), 2),
        "saebench_s_per_sae": round(statistics.median(own), 2),
        "ratio_median": round(statistics.median(pairs), 2),
        "ratio_min": round(pairs[0], 2),
        "ratio_max": round(pairs[-1], 2),
        "sae_bench_peak_gb": round(max(r["peak_rss"] for r in theirs) / 1e9, 2),
        "saebench_peak_gb": round(max(r["peak_rss"] for r in ours) / 1e9, 2),
    }
    print(json.dumps(row), flush=True)
    return row


def _named(saes: list[str]) -> list[str]:
    return [word for sae in saes for word in ("--sae", sae)]


def random_gpt2(tokenizer: Path, out: Path) -> str:
    """Write a GPT-2 small of true size with random weights."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(AutoConfig.from_pretrained(tokenizer)).save_pretrained(out)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(out)
    return str(out)


def story_tokens(shared: Path, out: Path) -> str:
    """Write 256 contexts of 128 tokens of TinyStories."""
    from transformers import AutoTokenizer

    from saebench.data import CorpusSpec, build_corpus

    tokenizer = AutoTokenizer.from_pretrained(shared / "models/stories260K")
    spec = CorpusSpec(source="roneneldan/TinyStories", context_length=128, n_contexts=256)
    corpus = build_corpus(spec, tokenizer, seed=0, max_context=512, vocab_size=512, data_dir=shared / "data")
    np.save(out, corpus.tokens.numpy())
    return str(out)


def random_tokens(out: Path, contexts: int, length: int) -> str:
    """Write random GPT-2 tokens, BOS first (the model's weights are random too; speed is what counts)."""
    tokens = np.random.default_rng(0).integers(0, 50256, (contexts, length))
    tokens[:, 0] = 50256
    np.save(out, tokens)
    return str(out)


def main() -> None:
    """Run every case and print a line for each; ``--json`` writes them all to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["stories", "gpt2"], default=["stories", "gpt2"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        stories = str(args.shared / "models/stories260K")
        if "stories" in args.only:
            tokens = story_tokens(args.shared, tmp / "stories.npy")
            small = str(args.shared / "saes/stories260K/saelens-topk")
            narrow = random_saes(args.peers, tmp / "narrow", 64, 512, 8, "blocks.3.hook_resid_pre", "stories260K")
            rows.append(case("stories260K, 512 latents, 1 SAE", args, stories, [small], tokens, 16, args.rounds))
            rows.append(case("stories260K, 512 latents, 8 SAEs", args, stories, narrow, tokens, 16, args.rounds))
        if "gpt2" in args.only:
            gpt2 = random_gpt2(args.shared / "models/gpt2-tokenizer", tmp / "gpt2")
            wide = random_saes(args.peers, tmp / "wide", 768, 24576, 32, "blocks.8.hook_resid_pre", "gpt2")
            many, long = random_tokens(tmp / "many.npy", 64, 128), random_tokens(tmp / "long.npy", 4, 1024)
            rows.append(case("GPT-2 small, 24,576 latents, 1 SAE", args, gpt2, wide[:1], many, 16, args.rounds))
            rows.append(case("GPT-2 small, 24,576 latents, 8 SAEs", args, gpt2, wide, many, 16, 1))
            memory = call(sys.executable, "ours_core.py", "--model", gpt2, "--sae", wide[0], "--tokens", long)
            peak = round(memory["peak_rss"] / 1e9, 2)
            rows.append({"case": "GPT-2 small, 24,576 latents, context 1024: peak memory", "saebench_peak_gb": peak})
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "rows": merged(args.json, rows)}, indent=1) + "\n")


def random_saes(peers: str, folder: Path, d_in: int, d_sae: int, k: int, site: str, model: str) -> list[str]:
    """Have sae_lens write eight random TopK SAEs."""
    call(peers, "peers/make_topk.py", str(folder), "8", str(d_in), str(d_sae), str(k), site, model)
    return [str(folder / f"topk-{i}") for i in range(8)]


def merged(file: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of ``file`` with those measured now in their places."""
    old = json.loads(file.read_text())["rows"] if file.exists() else []
    return list({row["case"]: row for row in [*old, *rows]}.values())


if __name__ == "__main__":
    main()
