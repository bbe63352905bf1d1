"""What one dictionary is worth in one task; texts, draws and permutations are the same for all.

Letters: ``N`` training texts, ``M`` test texts, ``B`` draws of the bootstrap, ``K`` latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saebench.record import DataInfo
from saebench.studies.probes.acts import Encoded, Reader
from saebench.studies.probes.dictionaries import Dictionary, Probe
from saebench.studies.probes.examples import ProbeExamples
from saebench.studies.probes.newton import logit
from saebench.studies.probes.scores import KS, TaskOutcome
from saebench.studies.probes.scoring import Finding, draw_examples, judge
from saebench.studies.probes.several import fit_all, fit_several


@dataclass(frozen=True, kw_only=True)
class _Chance:
    """What is drawn for one task, once for all that is put to it."""

    drawn: Float[np.ndarray, "B M"]
    permuted: list[Bool[np.ndarray, " N"]]
    base: Finding


class Bench:
    """The tasks of one run on one site.

    Args:
        reader: Of the site.
        tasks: Both classes in both parts of each.
        encoded: Their texts.
        seed: Of the draws.
        bootstrap: ``B``.
        permutations: How often training labels are permuted.
        l2: The penalty.
    """

    def __init__(
        self, reader: Reader, tasks: Sequence[ProbeExamples], encoded: Sequence[Encoded], *,
        seed: int, bootstrap: int, permutations: int, l2: float,
    ) -> None:  # fmt: skip
        self.reader, self.tasks, self.encoded, self.l2, self._seed = reader, tasks, encoded, l2, seed
        self._chances = [self._chance(task, bootstrap, permutations) for task in tasks]

    @property
    def base(self) -> list[Finding]:
        """What knowing nothing but the training texts' share of the positive class is worth, by task."""
        return [chance.base for chance in self._chances]

    @property
    def about(self) -> list[dict[str, Any]]:
        """What the table says of where each task is from, and of texts that were left out."""
        return [
            {"version": task.version, "origin": task.origin, "revision": task.revision, "notes": "; ".join(task.notes)}
            for task in self.tasks
        ]

    def probe(self, number: int) -> Probe:
        """Return one task with its acts."""
        task = self.tasks[number]
        acts = self.reader(self.encoded[number])
        return Probe(
            name=task.name, labels=task.labels, is_train=task.is_train, acts=acts, pooled=acts.pooled(self.reader.pooling)
        )

    def _chance(self, task: ProbeExamples, bootstrap: int, permutations: int) -> _Chance:
        name = int.from_bytes(hashlib.sha256(task.name.encode()).digest()[:4], "big")
        rng = np.random.default_rng([self._seed, name])
        train, test = task.labels[task.is_train], task.labels[~task.is_train]
        drawn = draw_examples(len(test), bootstrap, rng)
        return _Chance(
            drawn=drawn,
            permuted=[rng.permutation(train) for _ in range(permutations)],
            base=judge(np.full(len(test), logit(float(train.mean()))), test, drawn),
        )

    def outcome(self, number: int, probe: Probe, dictionary: Dictionary) -> TaskOutcome:
        """Return what a dictionary is worth in one task."""
        chance, train = self._chances[number], probe.is_train
        fits, *by_luck = dictionary.fits(probe, [probe.labels[train], *chance.permuted], l2=self.l2)
        order = np.argsort(fits.loss, kind="stable")[: max(KS)]
        lucky = [int(one.loss.argmin()) for one in by_luck]
        values = dictionary.values(probe, np.concatenate([order, lucky]))
        best = int(order[0])
        one, test = self._judge(number, probe), values[~train]
        several = {}
        for k in KS:
            some = slice(0, min(k, len(order)))
            several[k] = one(fit_several(values[train][:, some], probe.labels[train], l2=self.l2)(test[:, some]))
        permuted = [
            one(test[:, len(order) + i] * fit.weight[latent] + fit.bias[latent]).values["loss"]
            for i, (fit, latent) in enumerate(zip(by_luck, lucky, strict=True))
        ]
        return TaskOutcome(
            **self.about_probe(probe),
            best=one(test[:, 0] * fits.weight[best] + fits.bias[best]),
            loss_train=float(fits.loss[best]),
            latents=tuple(order.tolist()),
            weight=float(fits.weight[best]),
            bias=float(fits.bias[best]),
            separable=bool(fits.separable[best]),
            several=several,
            loss_permuted=float(np.mean(permuted)),
            loss_train_permuted=float(np.mean([fit.loss.min() for fit in by_luck])),
            n_separable=int(fits.separable.sum()),
            n_unconverged=int((~fits.converged).sum()),
        )

    def ceiling(self, number: int, probe: Probe) -> TaskOutcome:
        """Return what logistic regression on all channels of the pooled acts is worth."""
        acts = probe.pooled.double().numpy()
        train, labels = acts[probe.is_train], probe.labels[probe.is_train]
        linear, _ = fit_all(train, labels, seed=self._seed)
        one = self._judge(number, probe)
        z = linear(train)
        loss_train = float(np.where(labels, np.logaddexp(0.0, -z), np.logaddexp(0.0, z)).mean())
        return TaskOutcome(**self.about_probe(probe), best=one(linear(acts[~probe.is_train])), loss_train=loss_train)

    def _judge(self, number: int, probe: Probe) -> Callable[[Float[np.ndarray, " M"]], Finding]:
        labels, drawn = probe.labels[~probe.is_train], self._chances[number].drawn

        def judged(log_odds: Float[np.ndarray, " M"]) -> Finding:
            return judge(log_odds, labels, drawn)

        return judged

    @staticmethod
    def about_probe(probe: Probe) -> dict[str, Any]:
        """Return what the texts of a task are: its name, their numbers, the share of the positive class in the test."""
        test = ~probe.is_train
        return {
            "task": probe.name, "n_train": int(probe.is_train.sum()), "n_test": int(test.sum()),
            "share": float(probe.labels[test].mean()),
        }  # fmt: skip

    def data(self, name: str, *, positions: int) -> DataInfo:
        """Return what the texts were.

        Args:
            name: What was asked for.
            positions: To how many tokens texts were cut.
        """
        digest = hashlib.sha256("".join(f"{task.name}:{task.sha256()}\n" for task in self.tasks).encode())
        start = "BOS and the text" if self.encoded[0].has_bos else "the text, without BOS (the tokenizer has none)"
        lengths = [len(ids) - one.has_bos for one in self.encoded for ids in one.ids]
        return DataInfo(
            corpus=name,
            revision=", ".join(dict.fromkeys(f"{task.origin}@{task.revision}" for task in self.tasks if task.revision)) or None,
            sha256=digest.hexdigest(),
            n_contexts=len(lengths),
            context_length=max(lengths) + self.encoded[0].has_bos,
            n_tokens_scored=len(lengths) if self.reader.pooling == "last" else sum(lengths),
            rule=f"one text a context: {start}, cut at the left to {positions} positions; {self.reader.pooling} of its tokens",
        )
