"""Building N2G patterns: the study `n2g` against OpenAI's procedure run as written.

The peer is the algorithm of explanations.py of openai/sparse_autoencoder, one latent after the other: a forward of the whole
model with logits for each step, the SAE's latents at every token of it. Its 16 texts go side by side, those of one step in one
forward, up to 16; on few latents it is timed with one text a forward as well. Both sides have the same latents, documents, model
and SAE; the peer is timed on the latents that ours builds together (on some of them, drawn at random, where --peer-latents says
so: latents differ a hundredfold in what they cost), and gives the same patterns: that is checked. Seconds are the processor's.
Reading the corpus, which either needs to find activations, is left out.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import random_gpt2

from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.lm.prefix_tree import LastActs, Text
from saebench.provenance import machine, versions
from saebench.sae import SAE, SAEConfig, SAEWeights, load_sae
from saebench.studies.n2g.explained import Explained
from saebench.studies.n2g.pad import pad_token
from saebench.studies.n2g.patterns import ANY, Pattern, Trie
from saebench.studies.n2g.reading import halves, read
from saebench.studies.n2g.settings import N2GSettings
from saebench.studies.n2g.suffixes import Document
from saebench.tasklist import TaskCorpus

Acts = Callable[[Sequence[Text]], list[list[float]]]


class Peer:
    """The published procedure for one latent, with a model function as its callers would write it."""

    def __init__(self, model: LanguageModel, sae: SAE, layer: int, bos: int | None, latent: int, batch: int) -> None:
        self.model, self.sae, self.layer, self.latent, self.batch = model, sae, layer, latent, batch
        self.begin: Text = () if bos is None else (bos,)

    @torch.inference_mode()
    def acts(self, texts: Sequence[Text]) -> list[list[float]]:
        """Return the latent at every token of every text, by one forward of the whole model."""
        whole = [self.begin + text for text in texts]
        tokens = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.long)
        for row, text in zip(tokens, whole, strict=True):
            row[: len(text)] = torch.tensor(text)
        seen: list[torch.Tensor] = []
        block = self.model.stack.blocks[self.layer]
        handle = block.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        _ = self.model.hf(input_ids=tokens, use_cache=False).logits
        handle.remove()
        latents = self.sae.encode(seen[0].flatten(0, 1))
        ours = latents.indices == self.latent
        found = torch.zeros(tokens.numel())
        found[latents.rows()[ours]] = latents.values[ours]
        rows = found.view(tokens.shape).tolist()
        return [row[len(self.begin) : len(text)] for row, text in zip(rows, whole, strict=True)]

    def explain(self, documents: Sequence[Document]) -> Trie:
        """Return the patterns."""
        ends = self._side_by_side([self._minimal(document) for document in documents])
        padded = list(self._batched([(PAD, *end) for end, _ in ends]))
        trie: dict[Any, Any] = {}
        for (end, act), acts, document in zip(ends, padded, documents, strict=True):
            replaced = [(*end[:i], PAD, *end[i + 1 :]) for i in range(len(end))]
            saliency = [1 - other[-1] / act for other in self._batched(replaced)]
            path = tuple(ANY if s < 0.5 else token for token, s in zip(reversed(end), reversed(saliency), strict=True))
            trie[Pattern(path, not acts[-1] / document.act >= 0.5)] = act
        return trie

    def _minimal(self, document: Document) -> Iterator[Any]:
        for start in range(len(document.text) - 1, -1, -1):
            acts = yield document.text[start:]
            if acts[-1] / document.act >= 0.5:
                return document.text[start:], acts[-1]
        return document.text, document.act

    def _batched(self, texts: Iterable[Text]) -> Iterator[list[float]]:
        texts = list(texts)
        for start in range(0, len(texts), self.batch):
            yield from self.acts(texts[start : start + self.batch])

    def _side_by_side(self, searches: list[Any]) -> list[tuple[Text, float]]:
        found: dict[int, tuple[Text, float]] = {}
        asked = [(i, next(search)) for i, search in enumerate(searches)]
        while asked:
            answers = list(self._batched([text for _, text in asked]))
            again = []
            for (i, _), acts in zip(asked, answers, strict=True):
                try:
                    again.append((i, searches[i].send(acts)))
                except StopIteration as end:
                    found[i] = end.value
            asked = again
        return [found[i] for i in range(len(searches))]


PAD, BATCH = 0, 16


def measure(
    name: str, model: LanguageModel, sae: SAE, corpus: Corpus, n: int, n_peer: int, n_alone: int, rounds: int
) -> dict[str, Any]:
    """Time both sides on one SAE and return medians and ratios."""
    global PAD
    PAD = pad_token(model.tokenizer, model.d_vocab, of=model.id)
    assert sae.config.site is not None
    port = Port(model, sae.config.site)
    settings = N2GSettings(corpus=TaskCorpus(source="given", n_contexts=1), latents=n)
    one = Explained(sae, settings, 0)
    start = time.process_time()
    for batch in read(port, [sae], corpus, halves(corpus)[0]):
        one.add(batch.fired[0])
    reading = time.process_time() - start
    one.choose()
    documents = one.documents(corpus)
    whose = [document.latent for document in documents]
    chosen = np.sort(np.random.default_rng(0).choice(one.latents, min(n_peer, len(one.latents)), replace=False)).tolist()
    bos = int(corpus.tokens[0, 0]) if corpus.has_bos else None
    ours, theirs, tries = [], [], {}
    for number in range(rounds):
        last_acts = LastActs(port, corpus.context_length + 1)
        start = time.process_time()
        one.build(corpus, last_acts, PAD, lambda _done: None)
        ours.append((time.process_time() - start) / len(one.latents))
        print(f"{name}, round {number + 1}: {ours[-1]:.3f} s a latent", file=sys.stderr, flush=True)
        start = time.process_time()
        for latent in chosen:
            peer = Peer(model, sae, port.layer, bos, latent, BATCH)
            tries[latent] = peer.explain([document for document in documents if document.latent == latent])
        theirs.append((time.process_time() - start) / len(chosen))
        print(f"{name}, round {number + 1}: the peer {theirs[-1]:.3f} s a latent", file=sys.stderr, flush=True)
    start = time.process_time()
    for latent in chosen[:n_alone]:
        _ = Peer(model, sae, port.layer, bos, latent, 1).explain([d for d in documents if d.latent == latent])
    alone = (time.process_time() - start) / max(1, len(chosen[:n_alone]))
    built = dict(zip(one.latents.tolist(), one.tries, strict=True))
    differ = [latent for latent in chosen if built[latent].keys() != tries[latent].keys()]
    pairs = [(act, tries[latent][pattern]) for latent in chosen if latent not in differ for pattern, act in built[latent].items()]
    patterns = [pattern for trie in built.values() for pattern in trie]
    ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
    row = {
        "case": name, "d_sae": sae.config.d_sae, "site": port.read.name, "contexts": len(halves(corpus)[0]),
        "context_length": corpus.context_length, "latents": len(one.latents), "latents_peer": len(chosen), "rounds": rounds,
        "documents_per_latent": round(len(documents) / len(one.latents), 1),
        "documents_per_latent_peer": round(sum(latent in set(chosen) for latent in whose) / len(chosen), 1),
        "pattern_length": round(statistics.mean(len(p.path) for p in patterns), 2),
        "tokens_read_per_latent": round(one.n_tokens_read / len(one.latents)),
        "openai_s_per_latent": round(statistics.median(theirs), 3), "saebench_s_per_latent": round(statistics.median(ours), 4),
        "ratio_median": round(statistics.median(ratios), 1), "ratio_min": round(ratios[0], 1), "ratio_max": round(ratios[-1], 1),
        "openai_s_per_latent_one_text_a_forward": round(alone, 3) if n_alone else None,
        "latents_one_text_a_forward": len(chosen[:n_alone]),
        "ratio_one_text_a_forward": round(alone / statistics.median(ours), 1) if n_alone else None,
        "tries_that_differ": len(differ), "patterns_compared": len(pairs),
        "largest_relative_difference_of_acts": float(f"{max((abs(a / b - 1) for a, b in pairs), default=0.0):.1e}"),
        "s_reading_first_half": round(reading, 1),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


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
    parser.add_argument("--alone-latents", type=int, default=2, help="latents that the peer is timed on with one text a forward")
    parser.add_argument("--contexts", type=int, default=2048, help="contexts that patterns are built from")
    parser.add_argument("--context-length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for case in args.case or ["stories", "gpt2-tokens", "gpt2-random"]:
        if case == "stories":
            model = load_model(str(args.shared / "models/stories260K"), device="cpu")
            saes = [load_sae(str(args.shared / "saes/stories260K" / name)) for name in ("saelens-topk", "saelens-relu")]
            corpus = corpus_of(args, model, "roneneldan/TinyStories", args.contexts, args.context_length)
            rows += [
                measure(
                    f"stories260K, {sae.config.name}",
                    model,
                    sae,
                    corpus,
                    args.latents,
                    args.peer_latents,
                    args.alone_latents,
                    args.rounds,
                )
                for sae in saes
            ]
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = load_model(random_gpt2(args.shared / "models/gpt2-tokenizer", Path(folder)), device="cpu")
        corpus = corpus_of(args, model, "local/gutenberg", args.contexts, args.context_length)
        kind = case.removeprefix("gpt2-")
        sae = directions(model, Port(model, "blocks.8.hook_resid_pre"), corpus, kind, 24_576, 32)
        rows.append(
            measure(f"GPT-2 small, {kind}", model, sae, corpus, args.latents, args.peer_latents, args.alone_latents, args.rounds)
        )
    if args.json:
        about = {"machine": machine("cpu"), "versions": versions(), "threads": args.threads}
        before = json.loads(args.json.read_text())["cases"] if args.json.exists() else []
        kept = [row for row in before if row["case"] not in {new["case"] for new in rows}]
        args.json.write_text(json.dumps({"cases": [*kept, *rows], **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
