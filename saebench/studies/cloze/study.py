"""The study ``cloze``: which word fits the gap, with and without an SAE in the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saebench.errors import InputError
from saebench.lm.branches import takes_branches
from saebench.record import DataInfo
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.studies.base import Study, StudyResult, StudySettings
from saebench.studies.cloze.encoding import Encoded, encode, make_rows
from saebench.studies.cloze.examples import SOURCES, Example, Texts, checked
from saebench.studies.cloze.ngram import NGram, training_words, words_of
from saebench.studies.cloze.passes import Answers, answers
from saebench.studies.cloze.scores import SPECS, Baselines, first_alone, raw, right, rows, scores


class ClozeSettings(StudySettings):
    """What a cloze task says under ``settings``."""

    examples: str
    """Where the examples come from: `storyworld_lambada`, `storyworld_cbt`, or a source of another package."""
    answer: Literal["last_word", "candidates"]
    """What counts as right: the model's own next word, or the best of the candidates."""
    n: int = Field(default=500, ge=2)
    """Number of examples."""
    ngram_words: int = Field(default=500_000, ge=0)
    """Words that the 5-gram model is trained on; 0 leaves it out."""


@STUDIES.register("cloze")
class Cloze(Study[ClozeSettings]):
    """Which word fits the gap: accuracy and ln p of the answer, clean and with recons in place of acts.

    ``answer: last_word`` (LAMBADA): the gap is the last word. Right is what the model would have written itself: every token
    of the word, with its leading space, is the most likely one of the whole vocabulary, given those before it. ln p is the sum
    over its tokens.

    ``answer: candidates`` (CBT): each candidate is put into the gap, and its score is the sum of ln p of all tokens from the gap
    to the end of the sentence, given what stands before (Radford et al. 2019, §3.2). Right is the answer if its score is the
    highest; a tie is wrong. ``acc_word_…`` scores the tokens of the candidate alone.

    Texts begin with BOS where the tokenizer has one. A prompt that is longer than the model's context is cut at the left, BOS
    kept; the record says how many were. Acts are read on the clean forward and replaced at every position but 0, which is left
    clean unless ``--splice-bos`` says otherwise. Standard errors take the examples as independent; those of differences are
    paired by example.

    Two baselines say what the gap itself gives away: the clean model that sees the sentence of the gap alone, and a 5-gram
    model of words. A model that reads is well above both.
    """

    name = "cloze"
    version = 1
    specs = SPECS
    Settings: ClassVar[type[StudySettings]] = ClozeSettings

    def total(self) -> int:
        """Return twice the number of examples: all of them are read whole, and by their last sentence."""
        return 2 * self._n()

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Raises:
            InputError: There is no such source of examples, or an example cannot be scored.
        """
        how = self.settings.answer
        source = SOURCES.get(self.settings.examples)
        texts = checked(source(self.setting.seed, self._n(), self.setting.data_dir), several=how == "candidates")
        if len(texts.examples) > self._n():
            raise InputError(f"{self.settings.examples} gave {len(texts.examples)} examples where {self._n()} were asked for")
        model = self.setting.port.model
        encoded = encode(texts.examples, model.tokenizer, max_context=model.n_ctx)
        clean, *spliced = self._answers(texts.examples, encoded, saes)
        baselines = self._baselines(texts)
        data, cut = _data(texts, encoded, model.n_ctx), sum(one.cut > 0 for one in encoded)
        notes = (f"{cut} of {len(encoded)} prompts are longer than the model's {model.n_ctx} positions; cut at the left",)
        counts = {"prompts_cut": float(cut), "tokens_cut": float(sum(one.cut for one in encoded))}
        lengths = {"n_tokens": [len(one.trunk) for one in encoded], "tokens_cut": [one.cut for one in encoded]}
        return [
            StudyResult(
                scores=scores(clean, one, texts.examples, how, baselines),
                raw=raw(clean, one, texts.examples) | counts,
                data=data,
                tables={"examples": rows(clean, one, texts.examples, how, baselines) | lengths},
                notes=notes if cut else (),
            )
            for one in spliced
        ]

    def _n(self) -> int:
        return min(self.settings.n, self.setting.limit or self.settings.n)

    def _answers(self, examples: list[Example], encoded: list[Encoded], saes: Sequence[SAE]) -> list[Answers]:
        port = self.setting.port
        several = any(len(one.branches) > 1 for one in encoded)
        longest = max(one.length for one in encoded), max(one.length_together for one in encoded)
        return answers(
            port,
            saes,
            make_rows(encoded, side_by_side=several and takes_branches(port, *longest)),
            [len(example.candidates) for example in examples],
            splice_bos=self.setting.splice_bos,
            batch_size=self.setting.batch_size,
            advance=self.setting.advance,
        )

    def _baselines(self, texts: Texts) -> Baselines:
        model, how = self.setting.port.model, self.settings.answer
        short = [example.last_sentence() for example in texts.examples]
        (alone,) = self._answers(short, encode(short, model.tokenizer, max_context=model.n_ctx), [])
        return Baselines(
            last_sentence=right(alone, short, how),
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


def _data(texts: Texts, encoded: Sequence[Encoded], max_context: int) -> DataInfo:
    start = "BOS and the prompt" if encoded[0].has_bos else "the prompt, without BOS (the tokenizer has none)"
    return DataInfo(
        corpus=texts.name,
        revision=texts.revision,
        sha256=texts.sha256(),
        n_contexts=len(encoded),
        context_length=max(one.length for one in encoded),
        n_tokens_scored=sum(max(0, len(one.trunk) - 2) for one in encoded),
        rule=f"one example a context: {start}, cut at the left to the model's {max_context} positions, and what fills the gap",
    )
