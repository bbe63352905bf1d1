"""Tokens become text that can be seen, and never HTML."""

from __future__ import annotations

import pytest
import transformers as tf
from markupsafe import escape
from tokenizers import Tokenizer, decoders, models

from saebench.dashboard.tokens import TokenTexts, plain, visible
from tests.dashboard.cases import BOS, HOSTILE, Page, tokenizer


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800", "\xa0\u3000", "\n\t\r ", "", "é漢字🙂"])
def test_nothing_becomes_an_element_or_stays_unseen(text: str):
    page = Page(f"<p>{visible(text)}</p>")
    assert page.tags <= {"p", "i"}
    assert page.text.isprintable() or not text
    assert page.text.replace("\N{DOTTED CIRCLE}", "") == plain(text)
    attribute = Page(f'<p title="{escape(plain(text))}">')
    assert attribute.attributes("title") == [plain(text)]


def test_signs():
    assert plain("a\n\t\u202e\x00\xa0\ud800 b") == "a⏎⇥\\u202e\\x00\\xa0\\ud800 b"
    assert str(visible(" a\n<")) == '<i class="s"> </i>a<i class="c">⏎</i>&lt;'
    assert visible("\u0301a").startswith("\N{DOTTED CIRCLE}\u0301")


def test_every_byte_and_every_hostile_word_of_a_byte_level_vocabulary():
    texts = TokenTexts(tokenizer())
    for byte in range(256):
        assert texts.of(byte) == (chr(byte) if byte < 0x80 else f"\\x{byte:02x}")
    assert [texts.of(BOS + 1 + i) for i in range(len(HOSTILE))] == list(HOSTILE)
    assert texts.of(BOS) == "<|bos|>"
    assert texts.of(100_000) == "<token 100000>"


def test_sentencepiece_keeps_the_space_before_a_word_and_names_its_bytes():
    pieces = {"<unk>": 0, "▁a": 1, "▁the": 2, "x": 3, "<0xE2>": 4, "a": 5}
    made = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    texts = TokenTexts(tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>"))
    assert [texts.of(i) for i in (2, 3, 4)] == [" the", "x", "<0xE2>"]
