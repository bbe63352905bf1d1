"""A tiny model, contexts for it, and SAEs whose scores are known in advance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.metrics.base import Metric
from saebench.record import Score, Series
from saebench.registry import METRICS
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.stream import Pass
from saebench.tasklist import load_task
from tests.lm.families import build

SITE = "blocks.1.hook_resid_pre"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random Llama of three blocks, width 24."""
    folder = tmp_path_factory.mktemp("metrics") / "tiny-llama"
    build("llama", str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="session")
def port(model: LanguageModel) -> Port:
    """The site used throughout."""
    return Port(model, SITE)


def make_corpus(tokens: Tensor, valid: Tensor | None = None) -> Corpus:
    """Return ``tokens`` as a corpus."""
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    scored = valid.clone()
    scored[:, 0] = False
    return Corpus(
        tokens=tokens, valid=valid, scored=scored, name="test", origin="test", revision=None, sha256="0",
        context_length=tokens.shape[1], rule="test", warnings=(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """Eleven contexts of fifteen tokens."""
    tokens = torch.randint(4, 90, (11, 15), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 1
    return make_corpus(tokens)


def identity_sae(d: int = 24) -> SAE:
    """Return an SAE whose recon is its input: latents are max(x, 0) and max(−x, 0)."""
    eye = torch.eye(d)
    return SAE(
        SAEConfig(activation="relu", d_in=d, d_out=d, d_sae=2 * d, name="identity", site=SITE, context_length=6),
        SAEWeights(W_enc=torch.cat([eye, -eye], 1), b_enc=torch.zeros(2 * d), W_dec=torch.cat([eye, -eye]), b_dec=torch.zeros(d)),
    )


def constant_sae(value: Tensor) -> SAE:
    """Return an SAE that always answers ``value`` and never fires."""
    d = len(value)
    return SAE(
        SAEConfig(activation="relu", d_in=d, d_out=d, d_sae=7, name="constant", site=SITE, context_length=6),
        SAEWeights(W_enc=torch.zeros(d, 7), b_enc=-torch.ones(7), W_dec=torch.zeros(7, d), b_dec=value.float()),
    )


def random_sae(d: int = 24, s: int = 40, seed: int = 0, **config: object) -> SAE:
    """Return a random TopK SAE."""
    g = torch.Generator().manual_seed(seed)
    w = torch.nn.functional.normalize(torch.randn(s, d, generator=g), dim=1)
    fields = {
        "activation": "topk",
        "d_in": d,
        "d_out": d,
        "d_sae": s,
        "k": 5,
        "name": "random",
        "site": SITE,
        "context_length": 6,
    }
    return SAE(
        SAEConfig(**fields | config),
        SAEWeights(
            W_enc=w.T.contiguous(), b_enc=0.1 * torch.randn(s, generator=g), W_dec=w, b_dec=0.1 * torch.randn(d, generator=g)
        ),
    )


def metric_classes() -> list[type[Metric]]:
    """Return the metrics of task ``core``."""
    return [METRICS.get(name) for name in load_task("core").metrics]


def measure(port: Port, saes: list[SAE], corpus: Corpus, **options: object) -> list[dict[str, Score | Series]]:
    """Return every score and series by name, one dictionary an SAE."""
    results = Pass(port, saes, metric_classes(), corpus, **options).run()
    return [{row.name: row for result in one.results for row in (*result.scores, *result.series)} for one in results]


def mean_acts(port: Port, corpus: Corpus) -> Tensor:
    """Return the mean of the scored acts, in float64."""
    return port.clean(corpus.tokens).acts[corpus.scored].double().mean(0)
