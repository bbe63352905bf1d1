"""The study ``cloze``: which word fits the gap, with and without an SAE in the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from saebench.errors import InputError
from saebench.lm.branches import takes_branches
from saebench.record import DataInfo
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.studies.base import Study, StudyResult, StudySettings
from saebench.studies.cloze.active import Watch
from saebench.studies.cloze.by_latent import ByLatent, said_of, score_latents
from saebench.studies.cloze.encoding import Encoded, encode, encode_first, make_rows
from saebench.studies.cloze.examples import SOURCES, Example, Texts, checked
from saebench.studies.cloze.hub import HubData, hub_examples
from saebench.studies.cloze.latents import LATENT_SPECS, LatentSettings
from saebench.studies.cloze.ngram import NGram, training_words, words_of
from saebench.studies.cloze.passes import Answers, answers
from saebench.studies.cloze.scores import (
    CONTEXT_SPECS,
    SPECS,
    Baselines,
    Right,
    first_alone,
    of_answer,
    raw,
    right,
    rows,
    scores,
    scores_by_context,
)


class ClozeSettings(StudySettings):
    """What a cloze task says under ``settings``."""

    examples: str | None = None
    """Where the examples come from: `storyworld_lambada`, `storyworld_cbt`, or a source of another package."""
    data: HubData | None = None
    """In place of `examples`, a data set of the hub: `id`, `also`, `config`, `split`, `revision`, `form`, `order`, `rows`."""
    answer: Right
    """What counts as right: the model's own next word, the best of the candidates, or the word's first token."""
    n: int = Field(default=500, ge=2)
    """Number of examples."""
    ngram_words: int = Field(default=500_000, ge=0)
    """Words that the 5-gram model is trained on; 0 leaves it out."""
    splice_bos: bool = False
    """Whether position 0 is replaced as well, whatever the run says."""
    latents: LatentSettings | None = LatentSettings()
    """Scores by latent: `window`, `min_prompts`, `listed`, `ablated_prompts`; null leaves them out."""

    @model_validator(mode="after")
    def _one_source(self) -> ClozeSettings:
        if (self.examples is None) == (self.data is None):
            raise ValueError("give either `examples`, the name of a source, or `data`, a data set of the hub")
        return self


@STUDIES.register("cloze")
class Cloze(Study[ClozeSettings]):
    """Which word fits the gap: accuracy and ln p of the answer, clean and with recons in place of acts.

    ``answer: last_word`` (LAMBADA): the gap is the last word. Right is what the model would have written itself: every token
    of the word, with its leading space, is the most likely one of the whole vocabulary, given those before it. ln p is the sum
    over its tokens.

    ``answer: candidates`` (CBT): each candidate is put into the gap, and its score is the sum of ln p of all tokens from the gap
    to the end of the sentence, given what stands before (Radford et al. 2019, §3.2). Right is the answer if its score is the
    highest; a tie is wrong. ``acc_word_…`` scores the tokens of the candidate alone.

    ``answer: first_token`` (Anders & Bloom 2024): right is, for passages and questions alike, that the first token of the
    answer is the most likely one of the whole vocabulary at the prompt's end. A longer prompt is cut at the *right*, and CE
    leaves out the prompt's last token.

    Texts begin with BOS where the tokenizer has one. A prompt that is longer than the model's context is cut at the left, BOS
    kept; the record says how many were. Acts are read on the clean forward and replaced at every position but 0, which is left
    clean unless ``--splice-bos`` says otherwise. Standard errors take the examples as independent; those of differences are
    paired by example.

    Two baselines say what the gap itself gives away: the clean model that sees the sentence of the gap alone, and a 5-gram
    model of words. A model that reads is well above both.

    Each of these scores stands there twice more, ``…_within_context`` and ``…_beyond_context``: for the prompts, BOS included,
    that are no longer than the context the SAE was trained at, and for the longer ones.

    The table ``latent_scores`` has a row a latent: mean Δ ln p and the ±1 score of the prompts in whose last tokens it is active,
    against the null of as many prompts drawn at random, with Benjamini–Hochberg q. The most helpful and the most harmful latents
    are then ablated, one by one, in the prompts where they are active, and random latents that are as frequent beside them.
    """

    name = "cloze"
    version = 2
    specs = (*SPECS, *CONTEXT_SPECS, *LATENT_SPECS)
    Settings: ClassVar[type[StudySettings]] = ClozeSettings

    def total(self) -> int:
        """Return twice the number of examples, read whole and by their last sentence, and once more where latents are ablated."""
        return (2 if self.settings.latents is None else 3) * self._n()

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Raises:
            InputError: There is no such source of examples, or an example cannot be scored.
        """
        how = self.settings.answer
        texts = self._texts()
        model = self.setting.port.model
        encoded = self._encode(texts.examples)
        by_latent = self.settings.latents
        watch = None if by_latent is None else Watch(encoded, [sae.config.d_sae for sae in saes], size=by_latent.window)
        clean, *spliced = self._answers(texts.examples, encoded, saes, watch)
        baselines = self._baselines(texts)
        counts = {
            "prompts_cut": float(sum(one.cut > 0 for one in encoded)),
            "tokens_cut": float(sum(one.cut for one in encoded)),
            "examples_left_out": float(texts.left_out),
        }
        n_tokens = np.array([len(one.trunk) for one in encoded])
        lengths = {"n_tokens": n_tokens, "tokens_cut": [one.cut for one in encoded]}
        data, notes = _data(texts, encoded, model.n_ctx, self._side()), self._notes(texts, encoded)
        found = [ByLatent()] * len(saes)
        if by_latent is not None and watch is not None:
            found = score_latents(
                self.setting,
                saes,
                encoded,
                [example.answer for example in texts.examples],
                [of_answer(one.lnp, texts.examples) - of_answer(clean.lnp, texts.examples) for one in spliced],
                watch,
                by_latent,
                splice_bos=self._splice_bos(),
            )
            notes += said_of(saes, found)
        return [
            StudyResult(
                scores=[
                    *scores(clean, one, texts.examples, how, baselines),
                    *scores_by_context(
                        clean, one, texts.examples, how, baselines, n_tokens=n_tokens, trained=sae.config.context_length
                    ),
                    *latents.scores,
                ],
                series=latents.series,
                raw=raw(clean, one, texts.examples) | counts | dict(latents.raw),
                data=data,
                tables={"examples": rows(clean, one, texts.examples, how, baselines) | lengths, **latents.tables},
                notes=notes,
            )
            for sae, one, latents in zip(saes, spliced, found, strict=True)
        ]

    def _texts(self) -> Texts:
        s, seed, folder = self.settings, self.setting.seed, self.setting.data_dir
        if s.data is not None:
            texts = hub_examples(s.data, s.answer, seed=seed, n=self._n(), data_dir=folder)
        else:
            texts = SOURCES.get(s.examples or "")(seed, self._n(), folder)
        if len(texts.examples) > self._n():
            raise InputError(f"{s.examples} gave {len(texts.examples)} examples where {self._n()} were asked for")
        return checked(texts, several=s.answer == "candidates")

    def _notes(self, texts: Texts, encoded: Sequence[Encoded]) -> tuple[str, ...]:
        cut, n_ctx = sum(one.cut > 0 for one in encoded), self.setting.port.model.n_ctx
        notes: list[str] = []
        if cut:
            notes.append(
                f"{cut} of {len(encoded)} prompts are longer than the model's {n_ctx} positions; cut at the {self._side()}"
            )
        if texts.left_out:
            notes.append(f"{texts.left_out} rows of {texts.name} cannot be asked (no text, no gap, no right answer); left out")
        return tuple(notes)

    def _side(self) -> str:
        return "right" if self.settings.answer == "first_token" else "left"

    def _encode(self, examples: Sequence[Example]) -> list[Encoded]:
        model = self.setting.port.model
        how = encode_first if self.settings.answer == "first_token" else encode
        return how(examples, model.tokenizer, max_context=model.n_ctx)

    def _n(self) -> int:
        return min(self.settings.n, self.setting.limit or self.settings.n)

    def _splice_bos(self) -> bool:
        return self.setting.splice_bos or self.settings.splice_bos

    def _answers(
        self, examples: list[Example], encoded: list[Encoded], saes: Sequence[SAE], watch: Watch | None = None
    ) -> list[Answers]:
        port = self.setting.port
        several = any(len(one.branches) > 1 for one in encoded)
        longest = max(one.length for one in encoded), max(one.length_together for one in encoded)
        return answers(
            port,
            saes,
            make_rows(encoded, side_by_side=several and takes_branches(port, *longest)),
            [len(example.candidates) for example in examples],
            splice_bos=self._splice_bos(),
            batch_size=self.setting.batch_size,
            advance=self.setting.advance,
            watch=watch,
        )

    def _baselines(self, texts: Texts) -> Baselines:
        short = [example.last_sentence() for example in texts.examples]
        (alone,) = self._answers(short, self._encode(short), [])
        return Baselines(
            last_sentence=right(alone, short, self.settings.answer),
            ngram=self._ngram(texts),
            chance=np.array([1.0 / len(example.candidates) for example in texts.examples]),
        )

    def _ngram(self, texts: Texts) -> NDArray[np.bool_] | None:
        """Return which examples the 5-gram model has right, by the same rule as the language model."""
        if texts.training is None or not self.settings.ngram_words:
            return None
        asked = [
            [(words_of(example.prompt), words_of(word + example.rest)) for word in example.candidates]
            for example in texts.examples
        ]
        contexts = {(before + after[:i])[-4:] for pairs in asked for before, after in pairs for i in range(len(after))}
        ngram = NGram(training_words(texts.training, self.settings.ngram_words), contexts)
        index = np.array([example.answer for example in texts.examples])
        if self.settings.answer == "candidates":
            width = max(map(len, asked))
            lnp = np.full((len(asked), width), -np.inf)
            for n, pairs in enumerate(asked):
                lnp[n, : len(pairs)] = [ngram.lnp(before, after) for before, after in pairs]
            return first_alone(lnp, index)
        own = [pairs[i] for pairs, i in zip(asked, index, strict=True)]
        return np.array([all(ngram.best((a + b[:i])[-4:]) == b[i] for i in range(len(b))) for a, b in own])


def _data(texts: Texts, encoded: Sequence[Encoded], max_context: int, side: str) -> DataInfo:
    start = "BOS and the prompt" if encoded[0].has_bos else "the prompt, without BOS (the tokenizer has none)"
    return DataInfo(
        corpus=texts.name,
        revision=texts.revision,
        sha256=texts.sha256(),
        n_contexts=len(encoded),
        context_length=max(one.length for one in encoded),
        n_tokens_scored=sum(max(0, one.n_prompt - 2) for one in encoded),
        rule=f"one example a context: {start}, cut at the {side} to the model's {max_context} positions, and what fills the gap",
    )
