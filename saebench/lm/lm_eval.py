"""The face that lm-eval sees: a model that answers its requests from the clean pass or from a spliced one.

What is computed is left to an :class:`Answerer`, which is asked for all passes at once: the prefix of the model and the clean
pass are then shared by every SAE of a site, and candidates with one context share its forward. Tokens and log-likelihoods are
kept by content, so that the same requests, asked again for the next pass, cost nothing. lm-eval's own cache is never used: its
key holds neither the model nor the SAE.

Tokenisation, truncation and windows are those of lm-eval's ``HFLM`` (lm-eval 0.4.13, ``lm_eval.models.huggingface``), whose
numbers with a plain forward hook these are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from saebench.errors import InputError

Answer = tuple[float, bool]
"""ln p of a continuation in nats, and whether each of its tokens is the most likely one of the whole vocabulary."""


@dataclass(frozen=True)
class Group:
    """A context and what may follow it, as token ids."""

    trunk: tuple[int, ...]
    branches: list[tuple[int, ...]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """A text to be gone on with, greedily."""

    prompt: list[int]
    n_new: int
    """Tokens to write at most."""
    finished: Callable[[list[int]], bool]
    """Whether the tokens written so far are enough."""


@runtime_checkable
class Answerer(Protocol):
    """What computes: pass 0 is the clean one, pass i has SAE i − 1 spliced in."""

    @property
    def n_passes(self) -> int:
        """The clean pass and one an SAE."""
        ...

    def continuations(self, groups: Sequence[Group]) -> list[list[list[Answer]]]:
        """Return ``[group][branch][pass]``."""
        ...

    def write(self, which: int, texts: Sequence[Writing]) -> list[list[int]]:
        """Return the tokens that pass ``which`` writes behind each prompt."""
        ...


class SplicedLM(TemplateLM):
    """An ``lm_eval`` model over the clean pass and the spliced ones of a site; :attr:`which` says whose answers it gives.

    Contexts are cut at the left where they are too long, as ``HFLM`` does. Generation is greedy.

    Args:
        answerer: Computes.
        tokenizer: The model's tokenizer.
        max_length: Positions that the model takes.
        prepend_bos: Whether texts begin with BOS; where it is ``None``, they do if the tokenizer has one. (``HFLM`` leaves that
            to the tokenizer: Llama's puts it, GPT-2's does not.)
        max_gen_toks: Tokens to write at most, where the task does not say.
    """

    def __init__(
        self, answerer: Answerer, tokenizer: Any, *, max_length: int, prepend_bos: bool | None = None, max_gen_toks: int = 256
    ) -> None:
        super().__init__()
        self.answerer, self.tokenizer, self.max_length, self.max_gen_toks = answerer, tokenizer, max_length, max_gen_toks
        self.which = 0
        self.n_cut = 0
        """How many different requests were longer than the model's context."""
        self.longest = 0
        """Positions of the longest text so far."""
        self.n_scored = 0
        """Tokens whose ln p was taken, in each pass."""
        self._bos: int | None = tokenizer.bos_token_id
        if prepend_bos and self._bos is None:
            raise InputError("the tokenizer has no BOS token; leave prepend_bos out, or say false")
        self._prepend = self._bos is not None and prepend_bos is not False
        self._answers: dict[bytes, list[Answer]] = {}
        self._written: dict[tuple[int, bytes], str] = {}
        self._encoded: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise InputError("the tokenizer has no token that ends a text, which lm-eval needs")
        return int(end)

    @property
    def prefix_token_id(self) -> int:
        """What stands in for an empty context: BOS, or the token that ends a text."""
        return self.eot_token_id if self._bos is None else int(self._bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of ``string``, BOS in front unless it is there already or ``add_special_tokens`` is false."""
        del kwargs
        ids = list(self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"])
        wanted = self._prepend if add_special_tokens is None else add_special_tokens and self._bos is not None
        return [self.prefix_token_id, *ids] if wanted and ids[:1] != [self._bos] else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of both; each pair is tokenised once, whatever the number of passes."""
        pair = context, continuation
        if pair not in self._encoded:
            ids = super()._encode_pair(context, continuation)
            self._encoded[pair] = np.array(ids[0], dtype=np.int32), np.array(ids[1], dtype=np.int32)
        first, second = self._encoded[pair]
        return first.tolist(), second.tolist()

    def context_length(self, kind: str, args: Sequence[Any]) -> int:
        """Return how many tokens the model reads before what a request asks for, BOS included; of a whole text, all of them.

        Args:
            kind: The request's type.
            args: Its arguments.
        """
        if kind == "loglikelihood_rolling":
            return min(len(self.tok_encode(args[0])), self.max_length)
        if kind == "generate_until":
            settings: Any = normalize_gen_kwargs(args[1], self.max_gen_toks)
            return max(1, min(len(self.tok_encode(args[0])), self.max_length - int(settings["max_gen_toks"])))
        context, continuation = args
        return len(self._fitted(*self._encode_pair(context, continuation))[0]) if context else 1

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any) -> list[Answer]:
        del kwargs
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        keys = [_key(trunk, branch) for trunk, branch in pairs]
        groups: dict[tuple[int, ...], Group] = {}
        asked: list[tuple[bytes, Group, int]] = []
        new: set[bytes] = set()
        for key, (trunk, branch), (_, context, continuation) in zip(keys, pairs, requests, strict=True):
            if key in self._answers or key in new:
                continue
            new.add(key)
            group = groups.setdefault(trunk, Group(trunk))
            asked.append((key, group, len(group.branches)))
            group.branches.append(branch)
            self.n_cut += len(context) + len(continuation) > self.max_length + 1
            self.longest = max(self.longest, len(trunk) + len(branch) - 1)
            self.n_scored += len(branch)
        if groups:
            order = {trunk: i for i, trunk in enumerate(groups)}
            found = self.answerer.continuations(list(groups.values()))
            for key, group, i in asked:
                self._answers[key] = found[order[group.trunk]][i]
        return [self._answers[key][self.which] for key in keys]

    def _fitted(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (context, continuation) cut at the left to what the model takes."""
        if not continuation or not context:
            raise InputError("lm-eval asks for the likelihood of an empty text, or with no token before it; mend the task")
        if len(continuation) > self.max_length:
            raise InputError(f"a continuation has {len(continuation)} tokens; the model takes {self.max_length}")
        row = (*context, *continuation)[-(self.max_length + 1) :]
        return row[: -len(continuation)], row[-len(continuation) :]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[Answer]:
        """Return (ln p of the continuation, whether it is the greedy one) of each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Return ln p of whole texts, in windows of the model's context, each token predicted once."""
        del disable_tqdm
        windows, counts = [], []
        for request in requests:
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [("", *make_disjoint_window(pair)) for pair in rolling]
            windows += own
            counts.append(len(own))
        found = iter(self._loglikelihood_tokens(windows))
        return [sum(next(found)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Return what the pass writes behind each context, up to a stop sequence, the end of the text or the limit."""
        del disable_tqdm
        wanted: list[tuple[tuple[int, bytes], list[str]]] = []
        missing: dict[tuple[int, bytes], Writing] = {}
        until_of: dict[tuple[int, bytes], list[str]] = {}
        for request in requests:
            context, options = request.args
            writing, until = self._writing(context, options)
            key = self.which, hashlib.sha256(repr((writing.prompt, writing.n_new, until)).encode()).digest()
            wanted.append((key, until))
            if key not in self._written and key not in missing:
                missing[key], until_of[key] = writing, until
        found = self.answerer.write(self.which, list(missing.values()))
        for key, ids in zip(missing, found, strict=True):
            self._written[key] = postprocess_generated_text(self._decoded(ids), until_of[key], None)
        return [self._written[key] for key, _ in wanted]

    def _writing(self, context: str, options: dict[str, Any]) -> tuple[Writing, list[str]]:
        options = dict(normalize_gen_kwargs(options, self.max_gen_toks))
        if options.get("do_sample") and options.get("temperature", 0.0) != 0.0:
            raise InputError(
                "the task samples what it writes; clean and spliced are compared on greedy text: set do_sample: false"
            )
        n_new = int(options["max_gen_toks"])
        room = self.max_length - n_new
        if room < 1:
            raise InputError(f"the task writes {n_new} tokens, and the model takes {self.max_length} in all; set max_gen_toks")
        until = handle_stop_sequences(options.get("until"), eos=self.tokenizer.decode([self.eot_token_id]))
        prompt = self.tok_encode(context)
        self.n_cut += len(prompt) > room and self.which == 0
        self.longest = max(self.longest, min(len(prompt), room) + n_new)

        def finished(ids: list[int]) -> bool:
            text = self._decoded(ids)
            return ids[-1] == self.eot_token_id or any(term and term in text for term in until)

        return Writing(prompt=prompt[-room:] or [self.prefix_token_id], n_new=n_new, finished=finished), until

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def _key(trunk: tuple[int, ...], branch: tuple[int, ...]) -> bytes:
    return hashlib.sha256(np.array([len(trunk), *trunk, *branch], dtype=np.int64).tobytes()).digest()
