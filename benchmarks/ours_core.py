"""Run our task ``core`` on given tokens, all SAEs of one site in one pass; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from saebench.data import CorpusSpec, build_corpus
from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.provenance import peak_memory_bytes
from saebench.registry import METRICS
from saebench.sae import load_sae
from saebench.stream import Pass
from saebench.tasklist import load_task


def main() -> None:
    """Time the pass, from the first batch to the last score; loading is left out, as it is for the peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", action="append", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.model, device="cpu")
    saes = [load_sae(path) for path in args.sae]
    assert saes[0].config.site is not None
    corpus = build_corpus(
        CorpusSpec(source=args.tokens), model.tokenizer, seed=0, max_context=model.n_ctx, vocab_size=model.d_vocab
    )
    metrics = [METRICS.get(name) for name in load_task("core").metrics]
    start = time.perf_counter()
    port = Port(model, saes[0].config.site)
    results = Pass(port, saes, metrics, corpus, batch_size=args.batch).run()
    seconds = time.perf_counter() - start
    scores = {s.name: s.value for r in results[-1].results for s in r.scores}
    print(json.dumps({"seconds": [seconds], "peak_rss": peak_memory_bytes(), "scores": scores, "file": Path(__file__).name}))


if __name__ == "__main__":
    main()
