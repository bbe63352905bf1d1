"""Building N2G patterns: the study `n2g` against OpenAI's procedure run as written.

The peer is explanations.py of openai/sparse_autoencoder (``peers/openai_n2g.py``), one latent after the other: a forward of the
whole model with logits for each step, the SAE's latents at every token of it. Texts of one step go side by side, up to 16. Its
model function is the one of that repository's README, TransformerLens' ``run_with_cache`` and a dense encoder, where a
TransformerLens is installed that has HookedTransformer (``peers/requirements.txt``), and everywhere a leaner one by
transformers with our encoder. Both sides have the same latents, documents, model and SAE. Latents differ a hundredfold in what
they cost the peer; how many tokens it reads for each is known, as the patterns are the same, which is checked. Where
--peer-latents are fewer than all, it is timed on latents that stand at even distances in that order, and its seconds a token
are taken for the others'. Seconds are the processor's with one thread, those of the clock with more. Reading the corpus, which
either needs to find activations, is left out.

    python benchmarks/n2g.py --shared ../shared --json benchmarks/figures/n2g.json

``--shared`` is a folder with ``models/stories260K``, ``models/gpt2-tokenizer``, ``saes/stories260K`` and ``data``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import random_gpt2
from peers import openai_n2g

from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.lm.prefix_tree import LastActs, Text
from saebench.provenance import machine, versions
from saebench.sae import SAE, SAEConfig, SAEWeights, load_sae
from saebench.studies.n2g.explained import Explained
from saebench.studies.n2g.pad import pad_token
from saebench.studies.n2g.patterns import Trie, tries
from saebench.studies.n2g.reading import halves, read
from saebench.studies.n2g.settings import N2GSettings
from saebench.studies.n2g.suffixes import Document, Reader, shortest
from saebench.tasklist import TaskCorpus


def peer_functions(
    model: LanguageModel, folder: str, sae: SAE, port: Port, begin: Text
) -> dict[str, Callable[[int], openai_n2g.Acts]]:
    """Return the peer's model functions, each for a latent, by the library that they are made with."""
    functions = {"transformers": lambda latent: openai_n2g.through_transformers(model, sae, port.layer, begin, latent)}
    try:
        from peers.hooked import hooked
    except ImportError:  # TransformerLens 4 has no HookedTransformer
        return functions
    lens, gap = hooked(folder)
    assert gap < 1e-3, f"TransformerLens' logits differ by {gap}"
    return {
        "transformer_lens": lambda latent: openai_n2g.through_transformer_lens(lens, port.read.name, sae, begin, latent)
    } | functions


def measure(
    name: str, model: LanguageModel, folder: str, sae: SAE, corpus: Corpus, *, n: int, n_peer: int, rounds: int, threads: int
) -> dict[str, Any]:
    """Time both sides on one SAE and return medians and ratios."""
    clock = time.process_time if threads == 1 else time.perf_counter
    pad = pad_token(model.tokenizer, model.d_vocab, of=model.id)
    assert sae.config.site is not None
    port = Port(model, sae.config.site)
    one = Explained(sae, N2GSettings(corpus=TaskCorpus(source="given", n_contexts=1), latents=n), 0)
    for batch in read(port, [sae], corpus, halves(corpus)[0]):
        one.add(batch.fired[0])
    one.choose()
    documents = one.documents(corpus)
    begin = (int(corpus.tokens[0, 0]),) if corpus.has_bos else ()
    functions = peer_functions(model, folder, sae, port, begin)
    chosen: list[int] = []
    costs: dict[int, int] = {}
    of: dict[int, list[Document]] = {}
    for document in documents:
        of.setdefault(document.latent, []).append(document)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {peer: [] for peer in functions}
    built: dict[int, Trie] = {}
    tried: dict[str, dict[int, Trie]] = {}
    n_tokens = 0
    for number in range(rounds):
        start = clock()
        last_acts = LastActs(port, corpus.context_length + 1)
        reader = Reader(sae, last_acts, begin[0] if begin else None)
        suffixes = shortest(documents, reader)
        built = tries(documents, suffixes, reader, pad=pad, longest=model.n_ctx - len(begin))
        ours.append((clock() - start) / len(one.latents))
        n_tokens = last_acts.n_tokens
        if not chosen:
            lengths: dict[int, list[int]] = {}
            for document, cut in zip(documents, suffixes.start.tolist(), strict=True):
                lengths.setdefault(document.latent, []).append(len(document.text) - cut)
            costs = {latent: openai_n2g.tokens_read(lengths[latent], len(begin)) for latent in lengths}
            by_cost = sorted(costs, key=costs.__getitem__)
            n_peer = min(n_peer, len(by_cost))
            chosen = [by_cost[int((i + 0.5) / n_peer * len(by_cost))] for i in range(n_peer)]
        for peer in functions if number % 2 == 0 else reversed(functions):
            start = clock()
            tried[peer] = {latent: openai_n2g.explain(functions[peer](latent), of[latent], pad) for latent in chosen}
            per_token = (clock() - start) / sum(costs[latent] for latent in chosen)
            theirs[peer].append(per_token * sum(costs.values()) / len(one.latents))
        told = ", ".join(f"{peer} {seconds[-1]:.3f}" for peer, seconds in theirs.items())
        print(f"{name}, round {number + 1}: {ours[-1]:.4f} s a latent; openai by {told}", file=sys.stderr, flush=True)
    patterns = [pattern for trie in built.values() for pattern in trie]
    row = {
        "case": name, "threads": threads, "d_sae": sae.config.d_sae, "site": port.read.name, "contexts": len(halves(corpus)[0]),
        "context_length": corpus.context_length, "latents": len(one.latents), "latents_peer": len(chosen), "rounds": rounds,
        "documents_per_latent": round(len(documents) / len(one.latents), 1),
        "tokens_read_per_latent_openai": round(sum(costs.values()) / len(one.latents)),
        "tokens_read_per_latent_openai_of_those_timed": round(statistics.mean(costs[latent] for latent in chosen)),
        "pattern_length": round(statistics.mean(len(p.path) for p in patterns), 2),
        "tokens_read_per_latent": round(n_tokens / len(one.latents)),
        "saebench_s_per_latent": round(statistics.median(ours), 4),
        "openai": {peer: compared(ours, theirs[peer], built, tried[peer]) for peer in functions},
        "machine": machine("cpu"), "versions": versions(),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two rows measure the same case in the same way."""
    alike = ("case", "threads", "contexts", "context_length", "latents")
    return all(row.get(key) == other[key] for key in alike) and row.get("openai", {}).keys() == other["openai"].keys()


def compared(ours: list[float], theirs: list[float], built: dict[int, Trie], tried: dict[int, Trie]) -> dict[str, Any]:
    """Return how both sides' times and patterns compare."""
    ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
    differ = [latent for latent in tried if built[latent].keys() != tried[latent].keys()]
    pairs = [(act, tried[latent][pattern]) for latent in tried if latent not in differ for pattern, act in built[latent].items()]
    return {
        "s_per_latent": round(statistics.median(theirs), 3), "ratio_median": round(statistics.median(ratios), 1),
        "ratio_min": round(ratios[0], 1), "ratio_max": round(ratios[-1], 1),
        "tries_that_differ": len(differ), "patterns_compared": len(pairs),
        "largest_relative_difference_of_acts": float(f"{max((abs(a / b - 1) for a, b in pairs), default=0.0):.1e}"),
    }  # fmt: skip


def directions(model: LanguageModel, port: Port, corpus: Corpus, kind: str, d_sae: int, k: int, max_order: int = 3) -> SAE:
    """Return a TopK SAE without training.

    ``random``: directions of unit length. ``tokens``: the mean acts, less the mean of all, of the tokens, pairs and triples of
    tokens that the text holds most often, one a latent and normalised, as an SAE that reads what was just said would have.
    """
    generator = torch.Generator().manual_seed(0)
    acts = torch.cat([port.clean(part, final=False).acts for part in corpus.tokens.split(32)])
    mean = acts[:, 1:].flatten(0, 1).mean(0)
    if kind == "random":
        rows = torch.randn(d_sae, len(mean), generator=generator)
    else:
        tokens = corpus.tokens.numpy()
        sums = []
        for order in range(1, max_order + 1):
            width = tokens.shape[1] - order
            grams = np.stack([tokens[:, 1 + i : 1 + i + width] for i in range(order)], -1).reshape(-1, order)
            _, which, counts = np.unique(grams, axis=0, return_inverse=True, return_counts=True)
            total = torch.zeros(len(counts), len(mean))
            total.index_add_(0, torch.from_numpy(which.ravel()), (acts[:, order : order + width] - mean).flatten(0, 1))
            share = min(len(counts), d_sae // max_order)
            best = np.argsort(-counts, kind="stable")[:share]
            sums.append(total[best] / torch.from_numpy(counts[best])[:, None])
        rows = torch.cat(sums)
        rest = torch.randn(d_sae - len(rows), len(mean), generator=generator)
        rows = torch.cat([rows, rest])
    rows = torch.nn.functional.normalize(rows, dim=1)
    config = SAEConfig(
        activation="topk", d_in=len(mean), d_out=len(mean), d_sae=d_sae, k=k, name=kind, site=port.read.name, model_id=model.id
    )
    weights = SAEWeights(W_enc=rows.T.contiguous(), b_enc=torch.zeros(d_sae), W_dec=rows, b_dec=mean, b_in=mean)
    return SAE(config, weights)


def corpus_of(args: argparse.Namespace, model: LanguageModel, source: str, contexts: int, length: int) -> Corpus:
    """Return contexts of a data set of the mirror, twice as many as patterns are built from."""
    spec = CorpusSpec(source=source, context_length=length, n_contexts=2 * contexts)
    return build_corpus(
        spec, model.tokenizer, seed=0, max_context=model.n_ctx, vocab_size=model.d_vocab, data_dir=args.shared / "data"
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=["stories", "gpt2-tokens", "gpt2-random"])
    parser.add_argument("--latents", type=int, default=300)
    parser.add_argument("--peer-latents", type=int, default=300, help="latents of them that the peer is timed on")
    parser.add_argument("--contexts", type=int, default=2048, help="contexts that patterns are built from")
    parser.add_argument("--context-length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    how = {"n": args.latents, "n_peer": args.peer_latents, "rounds": args.rounds, "threads": args.threads}
    rows = []
    for case in args.case or ["stories", "gpt2-tokens", "gpt2-random"]:
        if case == "stories":
            folder = str(args.shared / "models/stories260K")
            model = load_model(folder, device="cpu")
            corpus = corpus_of(args, model, "roneneldan/TinyStories", args.contexts, args.context_length)
            for name in ("saelens-topk", "saelens-relu"):
                sae = load_sae(str(args.shared / "saes/stories260K" / name))
                rows.append(measure(f"stories260K, {sae.config.name}", model, folder, sae, corpus, **how))
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = random_gpt2(args.shared / "models/gpt2-tokenizer", Path(made))
            model = load_model(folder, device="cpu")
            corpus = corpus_of(args, model, "local/gutenberg", args.contexts, args.context_length)
            kind = case.removeprefix("gpt2-")
            sae = directions(model, Port(model, "blocks.8.hook_resid_pre"), corpus, kind, 24_576, 32)
            rows.append(measure(f"GPT-2 small, {kind}", model, folder, sae, corpus, **how))
    if args.json:
        before = json.loads(args.json.read_text())["cases"] if args.json.exists() else []
        kept = [row for row in before if not any(same(row, new) for new in rows)]
        args.json.write_text(json.dumps({"cases": [*kept, *rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
