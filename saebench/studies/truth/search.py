"""The best column and threshold for every question, on one half of the text; what they are worth, on the other.

Letters: ``T`` tokens, ``C`` columns, ``Z`` entries, ``B`` thresholds of a column, ``Q`` questions, ``K`` questions of one
variable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saebench.studies.truth import measure
from saebench.studies.truth.columns import Columns
from saebench.studies.truth.counting import Codes, Counter, from_the_top
from saebench.studies.truth.questions import Questions

_CELLS = 1 << 20
_ENTRIES = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen for each question on the selection half."""

    column: Int[np.ndarray, " Q"]
    """Id of the column; −1 where no column fires at all."""
    threshold: Float[np.ndarray, " Q"]
    """Yes is said where the column is above 0 and at least this; 0 asks only that it fires."""
    silence: Bool[np.ndarray, " Q"]
    """Whether yes and no are swapped."""
    f1: Float[np.ndarray, " Q"]
    """F1 on the selection half."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the choices are worth on the scoring half."""

    n_positive: Int[np.ndarray, " Q"]
    f1: Float[np.ndarray, " Q"]
    f1_chance: Float[np.ndarray, " Q"]
    f1_adjusted: Float[np.ndarray, " Q"]
    auc: Float[np.ndarray, " Q"]
    mi: Float[np.ndarray, " Q"]
    mi_share: Float[np.ndarray, " Q"]


def n_thresholds(n_tokens: int, min_tokens: int, per_halving: int) -> int:
    """Return ``B``: enough that the last threshold of a column that always fires is reached at under ``min_tokens`` tokens."""
    return 2 + int(per_halving * (1 + np.log2(max(1.0, n_tokens / min_tokens))))


def levels(columns: Columns, per_halving: int, n_levels: int) -> Int[np.ndarray, " Z"]:
    """Return for each entry the highest threshold of its column that it reaches.

    Of a column with n entries, threshold b is the smallest of the n · 2^(−b / per_halving) largest ones: threshold 0 is firing
    at all, ``per_halving`` the median, 2 ``per_halving`` the upper quartile. Equal entries reach the same thresholds.
    """
    shares = 2.0 ** (-np.arange(n_levels) / per_halving)
    reach = np.floor(np.diff(columns.offsets)[:, None] * shares * (1 + 1e-9)).astype(np.int64)  # entries that reach each
    only = reach.copy()
    only[:, :-1] -= reach[:, 1:]
    from_the_largest = np.broadcast_to(np.arange(n_levels - 1, -1, -1), only.shape)
    found = np.repeat(from_the_largest.ravel(), only[:, ::-1].ravel())
    new = np.ones(len(found), dtype=bool)
    new[1:] = columns.values[1:] != columns.values[:-1]
    new[columns.offsets[:-1][reach[:, 0] > 0]] = True
    if not new.all():  # equals are as good as the first of them
        found = found[np.maximum.accumulate(np.where(new, np.arange(len(found)), 0))]
    return found


def choose(
    blocks: Iterable[Columns], codes: Codes, questions: Questions, *, n_tokens: int, min_tokens: int, per_halving: int
) -> Choice:
    """Return, for every question, the column and threshold with the largest F1 of all columns and all thresholds.

    All are counted: with a(t) the columns that fire at token t, TP of every column × threshold × kind takes Σ_t |a(t)| steps a
    variable, because a token has one kind of each. Among equals the lower threshold is taken, then the column with the larger
    sum: so the order of the columns does not matter. Where absence is sought, a column may answer by firing or by silence.

    Args:
        blocks: The columns.
        codes: As :meth:`Questions.codes` gives them for the same tokens.
        questions: What is asked.
        n_tokens: ``T``.
        min_tokens: Fewest tokens where an answer is yes; thresholds reached at fewer than about half of that are not tried.
        per_halving: Thresholds for each halving of the entries.
    """
    best = _Best(questions, codes, n_tokens)
    n_levels = n_thresholds(n_tokens, min_tokens, per_halving)
    width = 1 + max((span.stop - span.start for span in questions.spans.values()), default=0)
    most = max(1, _CELLS // (n_levels * width))
    for block in blocks:
        start = 0
        while start < len(block):
            inside = int(np.searchsorted(block.offsets, block.offsets[start] + _ENTRIES, side="right")) - 1
            stop = max(start + 1, min(inside, start + most))
            best.see(block.part(start, stop), per_halving, n_levels)
            start = stop
    return best.choice()


class _Best:
    """The best answer so far to each question."""

    def __init__(self, questions: Questions, codes: Codes, n_tokens: int) -> None:
        self.questions, self.n = questions, n_tokens
        self.counter = Counter(codes, {name: 1 + span.stop - span.start for name, span in questions.spans.items()})
        self.kinds = questions.kind_counts(codes)
        self.absent = questions.by_absence
        n = len(questions)
        self.f1, self.threshold = np.zeros(n), np.zeros(n)
        self.column = np.full(n, -1, dtype=np.int64)
        self.silence = np.zeros(n, dtype=bool)
        self.key: list[tuple[float, ...]] = [()] * n

    def see(self, columns: Columns, per_halving: int, n_levels: int) -> None:
        shape = (len(columns), n_levels)
        of = np.repeat(np.arange(len(columns)), np.diff(columns.offsets))
        cell = of * n_levels + levels(columns, per_halving, n_levels)
        said = from_the_top(np.bincount(cell, minlength=len(columns) * n_levels).reshape(shape))
        mass = np.bincount(of, weights=columns.values, minlength=len(columns))
        for variable, reached in self.counter.reached(cell, columns.tokens, *shape):
            span, hits = self.questions.spans[variable], reached[:, :, 1:]
            kinds, absent = self.kinds[span], self.absent[span]
            firing = np.where(absent, said[..., None] - hits, hits)
            positives = np.where(absent, self.n - kinds, kinds)
            self._offer(columns, span, measure.f1(firing, said[..., None], positives), said, mass, silence=False)
            if absent.any():
                silent = np.where(absent, positives - firing, 0)
                score = np.where(absent, measure.f1(silent, self.n - said[..., None], positives), -1.0)
                self._offer(columns, span, score, said, mass, silence=True)

    def _offer(
        self,
        columns: Columns,
        span: slice,
        score: Float[np.ndarray, "C B K"],
        said: Int[np.ndarray, "C B"],
        mass: Float[np.ndarray, " C"],
        *,
        silence: bool,
    ) -> None:
        score = np.where(said[..., None] > 0, score, -1.0)
        top = score.max((0, 1))
        for i, question in enumerate(range(span.start, span.stop)):
            if top[i] <= 0 or top[i] < self.f1[question]:
                continue
            where = np.argwhere(score[:, :, i] == top[i])
            keys = [(int(b), -float(mass[c]), int(columns.ids[c]), silence, int(c)) for c, b in where.tolist()]
            key = min(keys)
            if top[i] == self.f1[question] and self.key[question] and key > self.key[question]:
                continue
            level, column = key[0], key[-1]
            self.f1[question], self.key[question] = top[i], key
            self.column[question], self.silence[question] = columns.ids[column], silence
            last = columns.offsets[column] + said[column, level] - 1
            self.threshold[question] = columns.values[last] if level else 0.0

    def choice(self) -> Choice:
        return Choice(column=self.column, threshold=self.threshold, silence=self.silence, f1=self.f1)


def score(columns: Columns, choice: Choice, codes: Codes, questions: Questions, *, n_tokens: int) -> Findings:
    """Return what each choice is worth on other tokens than it was made on.

    Args:
        columns: The chosen columns on those tokens, by id, each once.
        choice: What was chosen.
        codes: Labels of those tokens.
        questions: What is asked.
        n_tokens: ``T``.
    """
    n = len(questions)
    kinds = questions.kind_counts(codes)
    positives = np.where(questions.by_absence, n_tokens - kinds, kinds)
    hits, said, area = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.full(n, 0.5)
    place = {id: i for i, id in enumerate(columns.ids.tolist())}
    which = {question: (v, question - s.start + 1) for v, s in questions.spans.items() for question in range(s.start, s.stop)}
    for id in np.unique(choice.column[choice.column >= 0]).tolist():
        tokens, values = columns.column(place[id])
        asked = np.flatnonzero(choice.column == id)
        where = [which[question] for question in asked.tolist()]
        positive = np.stack([codes[variable] == number for variable, number in where], 1)
        positive ^= questions.by_absence[asked]
        silent = choice.silence[asked]
        above = measure.auc(values, tokens, positive)
        area[asked] = np.where(silent, 1.0 - above, above)
        yes = values[:, None] >= choice.threshold[asked]
        fired, right = yes.sum(0), (yes & positive[tokens]).sum(0)
        said[asked] = np.where(silent, n_tokens - fired, fired)
        hits[asked] = np.where(silent, positives[asked] - right, right)
    share = positives / n_tokens
    f1, chance = measure.f1(hits, said, positives), measure.chance_f1(share)
    mi = measure.mutual_information(hits, said, positives, n_tokens)
    return Findings(
        n_positive=positives,
        f1=f1,
        f1_chance=chance,
        f1_adjusted=measure.adjusted_f1(f1, chance),
        auc=area,
        mi=mi,
        mi_share=mi / measure.entropy_bits(share),
    )
