"""A model whose vocabulary holds what a page must survive, and a reader of pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from saebench.dashboard.tokens import _BYTES
from saebench.lm.model import LanguageModel, load_model
from saebench.sae import SAE, SAEConfig, SAEWeights, save_native

SITE = "blocks.1.hook_resid_pre"
D_SAE, LENGTH = 8, 16
BOS = 256
HOSTILE = (
    "<script>alert(1)</script>",
    "</style></title><h1>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;&amp;",
    "\"' onmouseover='alert(1)'",
    "a\u202eb\u2066c",
    "\x00\x1b[31m",
    "\u0301\u200d",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!--",
    "\u2028x\x85y",
)
"""Tokens of their own, with the ids that follow BOS."""
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer", "h1", "h2", "h3", "h4", "p",
    "a", "span", "i", "wbr", "div", "dl", "dt", "dd", "ol", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code",
    "svg", "rect",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "style", "title", "aria-label", "role", "viewbox",
    "preserveaspectratio", "x", "y", "width", "height",
}  # fmt: skip


def tokenizer(more: tuple[str, ...] = ()) -> tf.PreTrainedTokenizerFast:
    """Return a tokenizer of all single bytes, BOS, and hostile words."""
    letters = {byte: letter for letter, byte in _BYTES.items()}
    words = {letters[byte]: byte for byte in range(256)} | {"<|bos|>": BOS}
    made = Tokenizer(models.BPE(words, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(word, normalized=False) for word in (*HOSTILE, *more)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|bos|>", eos_token="<|bos|>")


def write_model(folder: Path, more: tuple[str, ...] = ()) -> LanguageModel:
    """Write and load a random GPT-2 of two blocks over that vocabulary."""
    torch.manual_seed(0)
    words = tokenizer(more)
    config = tf.GPT2Config(
        vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=64, n_inner=32, bos_token_id=BOS, eos_token_id=BOS
    )
    tf.GPT2LMHeadModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def some_sae() -> SAE:
    """Return a random ReLU SAE whose last latent is dead, and whose first one fires nearly everywhere."""
    g = torch.Generator().manual_seed(1)
    W_enc = torch.randn(16, D_SAE, generator=g)
    bias = torch.full((D_SAE,), -0.02)
    bias[0], bias[-1] = 5.0, -1e4
    return SAE(
        SAEConfig(activation="relu", d_in=16, d_out=16, d_sae=D_SAE, site=SITE, name="some"),
        SAEWeights(W_enc=W_enc, b_enc=bias, W_dec=torch.randn(D_SAE, 16, generator=g), b_dec=torch.zeros(16)),
    )


def write_all(folder: Path, more: tuple[str, ...] = (), n: int = 40) -> list[str]:
    """Write model, SAE and text; return the words of a command that name them."""
    model = write_model(folder / "model", more)
    save_native(some_sae(), folder / "sae")
    tokens = np.random.default_rng(0).integers(0, model.d_vocab, (n, LENGTH))
    tokens[:, 4::5] = np.random.default_rng(1).integers(BOS + 1, model.d_vocab, tokens[:, 4::5].shape)
    tokens[:, 0] = BOS
    np.save(folder / "tokens.npy", tokens)
    words = ["--sae", str(folder / "sae"), "--model", str(folder / "model"), "--device", "cpu"]
    return [*words, "--corpus", str(folder / "tokens.npy"), "--context-length", str(LENGTH)]


class Page(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def tags(self) -> set[str]:
        """Kinds of elements."""
        return {tag for tag, _ in self.elements}

    def attributes(self, name: str) -> list[str | None]:
        """Return the values of an attribute, wherever it stands."""
        return [found[name] for _, found in self.elements if name in found]

    def is_harmless(self) -> bool:
        """Whether there is nothing but what the template writes, and no way out of the file."""
        names = {name for _, found in self.elements for name in found}
        links = self.attributes("href")
        return self.tags <= ALLOWED and names <= ATTRIBUTES and all(link and link.startswith("#") for link in links)
