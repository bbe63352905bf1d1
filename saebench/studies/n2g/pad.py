"""The token that stands where a token is taken away."""

from __future__ import annotations

from typing import Any

from saebench.errors import InputError

RULE = "the first of ` _`, `_`, ` |`, `|`, ` ~`, `~` that the vocabulary has as a token of its own, else the unknown token"
_CHOICES = (" _", "_", " |", "|", " ~", "~")
_SPACES = ("Ġ", "▁", " ")
"""How byte-level tokenizers, SentencePiece and plain vocabularies write the space before a word."""


def pad_token(tokenizer: Any, d_vocab: int, *, of: str, wanted: int | str | None = None) -> int:
    """Return the id of the pad token.

    OpenAI's code takes 4808, which is `` _`` of GPT-2: a sign that carries no meaning of its own. The rule: the first of `` _``,
    ``_``, `` |``, ``|``, `` ~``, ``~`` that the tokenizer has as one token, and else its unknown token; never BOS or EOS, which
    begin and end texts.

    Args:
        tokenizer: The model's.
        d_vocab: Ids that the model knows.
        of: The model's name, for the message.
        wanted: The id, or the text of the token, space in front included; by the rule if ``None``.

    Raises:
        InputError: ``wanted`` is no token of the model, or nothing that the rule names is.
    """
    if isinstance(wanted, int):
        if not 0 <= wanted < d_vocab:
            raise InputError(f"pad_token {wanted} is no token of {of}: ids run from 0 to {d_vocab - 1}")
        return wanted
    if wanted is not None:
        found = _id(tokenizer, wanted, d_vocab)
        if found is None:
            raise InputError(f"pad_token {wanted!r} is not one token of {of}; give another text, or the id of a token")
        return found
    for text in _CHOICES:
        found = _id(tokenizer, text, d_vocab)
        if found is not None:
            return found
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) or not unknown < d_vocab:
        raise InputError(
            f"the tokenizer of {of} has no usable pad token ({RULE}); name one with the setting pad_token, by id or text"
        )
    return unknown


def _id(tokenizer: Any, text: str, d_vocab: int) -> int | None:
    forms = [space + text[1:] for space in _SPACES] if text.startswith(" ") else [text]
    for form in forms:
        found = tokenizer.convert_tokens_to_ids(form)
        if found is not None and found < d_vocab and tokenizer.convert_ids_to_tokens(found) == form:
            return found
    return None
