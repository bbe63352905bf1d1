"""From examples to token ids, and from those to rows that go through a model, each with what is to be predicted in it.

Letters: ``L`` positions of a row, ``P`` predictions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from saebench.errors import InputError
from saebench.lm.branches import TRUNK
from saebench.studies.cloze.examples import Example

PROMPT = -1
"""Stands for a candidate in the predictions of the prompt's own tokens."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One example as token ids."""

    trunk: list[int]
    """BOS, where the tokenizer has one, and the prompt, as far as all candidates agree with it."""
    branches: list[list[int]]
    """What each candidate adds, up to the end of the sentence."""
    n_word: list[int]
    """How many tokens of each branch belong to the candidate itself."""
    has_bos: bool
    cut: int
    """Tokens of the prompt that were cut off because the model takes no more."""
    n_prompt: int
    """How many tokens at the front of the trunk, BOS among them, the prompt's CE is over."""

    @property
    def length(self) -> int:
        """Positions of trunk and longest branch, without its last token, behind which nothing is predicted."""
        return len(self.trunk) + max(map(len, self.branches)) - 1

    @property
    def length_together(self) -> int:
        """Positions of trunk and all branches, each without its last token."""
        return len(self.trunk) + sum(len(branch) - 1 for branch in self.branches)


def encode(examples: Sequence[Example], tokenizer: Any, *, max_context: int) -> list[Encoded]:
    """Return examples as token ids, cut at the left to what the model takes.

    Each filled-in text is tokenised whole, so every word has the tokens that it has in running text (``" kettle"``, with its
    space). A branch begins where the texts of the candidates, or the prompt alone, cease to agree.

    Args:
        examples: What to encode.
        tokenizer: The model's tokenizer.
        max_context: Positions that the model takes, BOS included.

    Raises:
        InputError: A candidate has no tokens or does not fit the model, or there is no token before the gap.
    """
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    prompts = _tokens(tokenizer, [example.prompt for example in examples])
    rests = _tokens(tokenizer, [example.rest for example in examples])
    out = []
    for number, (example, prompt, rest) in enumerate(zip(examples, prompts, rests, strict=True)):
        whole = _tokens(tokenizer, [example.filled(word) for word in example.candidates])
        shared = min(_agree(prompt, ids) for ids in whole)
        branches = [ids[shared:] for ids in whole]
        n_word = [_word_length(tokenizer, example, i, branches[i], rest, shared) for i in range(len(branches))]
        if not all(branches):
            word = example.candidates[[bool(branch) for branch in branches].index(False)]
            raise InputError(f"example {number}: the tokenizer makes no token of {word!r}; leave the example out")
        room = max_context - len(bos) - max(map(len, branches)) + 1
        if room < 1:
            raise InputError(
                f"example {number}: what fills the gap is too long for a model of {max_context} positions; leave it out"
            )
        if not bos and not shared:
            raise InputError(f"example {number} has no token before the gap; a model without BOS cannot begin there")
        kept = prompt[max(0, shared - room) : shared]
        trunk = bos + kept
        cut = shared - len(kept)
        out.append(Encoded(trunk=trunk, branches=branches, n_word=n_word, has_bos=bool(bos), cut=cut, n_prompt=len(trunk)))
    return out


def encode_first(examples: Sequence[Example], tokenizer: Any, *, max_context: int) -> list[Encoded]:
    """Return examples as token ids in the manner of Anders & Bloom (2024), their notebook's ``test_next_token``.

    BOS where the tokenizer has one, the prompt as it stands, cut at the *right* to what the model takes; the target is the
    first token of the answer with a space before it, tokenised by itself. CE leaves out the prompt's last token.

    Args:
        examples: What to encode; of each the right answer alone counts.
        tokenizer: The model's tokenizer.
        max_context: Positions that the model takes, BOS included.

    Raises:
        InputError: A prompt has no tokens and there is no BOS.
    """
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    prompts = _tokens(tokenizer, [example.prompt for example in examples])
    words = _tokens(tokenizer, [f" {example.candidates[example.answer]}" for example in examples])
    out = []
    for number, (prompt, word) in enumerate(zip(prompts, words, strict=True)):
        trunk = (bos + prompt)[:max_context]
        if not trunk or not word:
            raise InputError(f"example {number} has no tokens before the gap or in it; leave it out")
        cut = len(bos) + len(prompt) - len(trunk)
        out.append(Encoded(trunk=trunk, branches=[word[:1]], n_word=[1], has_bos=bool(bos), cut=cut, n_prompt=len(trunk) - 1))
    return out


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _agree(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens the two have in common at their beginning."""
    differ = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def _word_length(tokenizer: Any, example: Example, i: int, branch: list[int], rest: list[int], shared: int) -> int:
    """Return how many tokens of ``branch`` the candidate itself takes, one at least."""
    if not example.rest:
        return len(branch)
    if rest and branch[-len(rest) :] == rest:
        return max(1, len(branch) - len(rest))
    short = Example(prompt=example.prompt, candidates=example.candidates, answer=i, lead=example.lead)
    word = _tokens(tokenizer, [short.filled(example.candidates[i])])[0]
    return max(1, _agree(word[shared:], branch))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a batch: a trunk with some or all of its branches."""

    example: int
    counts: bool
    """Whether this row stands for its example in the count of what is done, and predicts its prompt."""
    tokens: Int[np.ndarray, " L"]
    branch: Int[np.ndarray, " L"]
    """0 in the trunk, 1, 2, … in the branches."""
    position: Int[np.ndarray, " L"]
    at: Int[np.ndarray, " P"]
    """Where in the row each prediction is made."""
    target: Int[np.ndarray, " P"]
    candidate: Int[np.ndarray, " P"]
    """The candidate that each prediction belongs to; −1 for the prompt."""
    of_word: Bool[np.ndarray, " P"]
    """Whether the target is part of the candidate itself."""

    @property
    def has_branches(self) -> bool:
        """Whether it holds more than one text."""
        return bool(self.branch.max() > 1)


def make_rows(encoded: Sequence[Encoded], *, side_by_side: bool) -> list[Row]:
    """Return the rows of all examples: one an example, its branches side by side, or one a candidate.

    Args:
        encoded: The examples.
        side_by_side: Whether the model takes branches (:func:`saebench.lm.branches.takes_branches`).
    """
    rows = []
    for number, one in enumerate(encoded):
        everyone = range(len(one.branches))
        rows += [_row(number, one, some) for some in ([everyone] if side_by_side else [[c] for c in everyone])]
    return rows


def _row(number: int, one: Encoded, candidates: Sequence[int]) -> Row:
    trunk, counts = len(one.trunk), candidates[0] == 0
    tokens, branch, position = list(one.trunk), [TRUNK] * trunk, list(range(trunk))
    first = 1  # what position 0 predicts is not scored, as in the pass over a corpus
    at = list(range(first, one.n_prompt - 1)) if counts else []
    target, candidate = [one.trunk[p + 1] for p in at], [PROMPT] * len(at)
    of_word = [False] * len(at)
    for place, c in enumerate(candidates, 1):
        ids, start = one.branches[c], len(tokens)
        at += [trunk - 1, *range(start, start + len(ids) - 1)]
        target += ids
        candidate += [c] * len(ids)
        of_word += [t < one.n_word[c] for t in range(len(ids))]
        tokens += ids[:-1]
        branch += [place] * (len(ids) - 1)
        position += range(trunk, trunk + len(ids) - 1)
    integers = [np.array(values, dtype=np.int64) for values in (tokens, branch, position, at, target, candidate)]
    return Row(
        example=number, counts=counts, tokens=integers[0], branch=integers[1], position=integers[2], at=integers[3],
        target=integers[4], candidate=integers[5], of_word=np.array(of_word, dtype=bool),
    )  # fmt: skip


def batches(rows: Sequence[Row], size: int | None, default: int) -> list[list[Row]]:
    """Return rows in batches of like length, the longest first.

    Args:
        rows: All rows.
        size: Rows of a batch.
        default: Tokens of a batch, where ``size`` is ``None``.
    """
    order = sorted(rows, key=lambda row: (-len(row.tokens), row.example, int(row.candidate[-1])))
    out, start = [], 0
    while start < len(order):
        stop = start + (size or max(1, default // len(order[start].tokens)))
        out.append(order[start:stop])
        start = stop
    return out
