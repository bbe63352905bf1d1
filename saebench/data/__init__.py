"""Data: text and tokens from the hub, a local mirror, or files, packed into contexts."""

from saebench.data.corpus import Corpus, build_corpus
from saebench.data.spec import CorpusSpec

__all__ = ["Corpus", "CorpusSpec", "build_corpus"]
