"""The study ``probes``: which latent tells the classes of a labelled set of texts apart, and how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_serializer, model_validator
from torch import Tensor

from saebench.errors import InputError
from saebench.probelist import probe_tasks
from saebench.record import DataInfo, Record
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.stream import centring
from saebench.studies.base import Lack, Study, StudyResult, StudySettings
from saebench.studies.probes import protocol
from saebench.studies.probes.acts import Pooling, Reader, encode
from saebench.studies.probes.again import lacking
from saebench.studies.probes.bench import Bench
from saebench.studies.probes.cache import ActsCache, user_cache
from saebench.studies.probes.dictionaries import Dictionary, Directions, Latents, PreActivations
from saebench.studies.probes.examples import SUITE, MissingProbe, ProbeExamples, load_examples
from saebench.studies.probes.ksparse import dense, held_out
from saebench.studies.probes.newton import L2
from saebench.studies.probes.penalised import Norm
from saebench.studies.probes.scores import CEILING, SPECS, Found, TaskOutcome, raw, rows, scores, series
from saebench.studies.probes.scoring import draw_examples
from saebench.studies.truth.columns import mean_and_components, random_dictionary


class ProbesSettings(StudySettings):
    """What a probe task says under ``settings``."""

    tasks: tuple[str, ...] = (SUITE,)
    """Probe tasks: names, patterns with `*`, or paths of YAML files."""
    latents: Literal["post", "pre"] = "post"
    """Latents after their activation, mostly 0, or before it, as Gao et al. probe them."""
    pooling: Pooling = "last"
    """One number a text and latent: of its last token, or the mean or the maximum over its tokens, BOS left out."""
    context_length: int | None = Field(default=None, ge=2)
    """Tokens of a text at most, BOS included; longer texts are cut at the left. The model's maximum if `None`."""
    l2: float = Field(default=L2, gt=0)
    """Penalty on a probe's weight for standardised latents: mean CE + ½ l2 w²."""
    bootstrap: int = Field(default=200, ge=2)
    """Draws of the bootstrap, over test texts and over tasks."""
    permutations: int = Field(default=1, ge=1)
    """How often training labels are permuted, to see what choosing among so many latents gives by luck."""
    protocol: Literal["newton", "sae_probes"] = "newton"
    """`newton`: a probe on every latent, and what stands beside. `sae_probes`: k-sparse probes as that package makes them."""
    ks: tuple[int, ...] = (1, 2, 5, 16)
    """How many latents a probe takes under the protocol `sae_probes`: some of 1, 2, 4, 5, 8, 16, 32, 64, 128, 256 and 512."""
    norm: Norm = "l1"
    """The penalty of a probe under the protocol `sae_probes`."""

    @model_validator(mode="after")
    def _fit_together(self) -> ProbesSettings:
        if not self.ks or not set(self.ks) <= set(protocol.KS) or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks: give some of {', '.join(map(str, protocol.KS))}, each once")
        if self.protocol == "sae_probes" and (self.latents, self.pooling) != ("post", "last"):
            raise ValueError(
                "protocol sae_probes takes latents after their activation, at the last token: latents post, pooling last"
            )
        return self

    @model_serializer(mode="wrap")
    def _what_moves_a_number(self, whole: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        idle = {"l2", "permutations"} if self.protocol == "sae_probes" else {"protocol", "ks", "norm"}
        return {name: value for name, value in whole(self).items() if name not in idle}


@STUDIES.register("probes")
class Probes(Study[ProbesSettings]):
    """Which latent tells two classes of texts apart: logistic regression on every latent alone, and on a few.

    A probe task is a set of labelled texts in two parts, for training and for the test. For every latent z a probe
    p = σ(w z + b) is fitted to the training texts: the smallest mean CE + ½ l2 w² by Newton–Raphson, with z standardised. The
    latent with the smallest training CE is the task's; the score is its CE on the test texts, in nats, averaged over tasks
    (Gao et al. 2024, §4.2, who report the minimum over latents of one CE: see ``probe_loss_train_min``).

    Texts begin with BOS where the tokenizer has one, and are cut at the left to the context. Acts are read on the clean
    forward, once for all SAEs of the site, and kept in the user's cache.

    k-sparse probes take the k latents with the smallest training CEs; k = 1 is ``probe_loss``. The same is asked of the acts'
    channels, of principal components and of a random dictionary; logistic regression on all channels is the ceiling. With
    permuted training labels all is done again: the smallest training CE is then what choosing among so many latents gives by
    luck, and the test CE what it is worth.

    Standard errors are those of a bootstrap over tasks: how much another choice of tasks would move the mean. Those over test
    texts, the tasks as they are, are in the record's raw numbers and, by task, in the table. All SAEs have the same draws.

    With ``protocol: sae_probes`` all this gives way to what the package of that name does (Kantamneni et al. 2025): the k latents
    whose means are furthest apart, logistic regression on them with a penalty chosen on held-out training texts, and as a
    baseline the same on the acts (:mod:`saebench.studies.probes.ksparse`). Scores are then ``k_sparse_auc_k1`` and so on.
    """

    name = "probes"
    version = 1
    specs = (*SPECS, *protocol.SPECS)
    Settings: ClassVar[type[StudySettings]] = ProbesSettings

    @classmethod
    def lacks(cls, record: Record, path: Path, settings: ProbesSettings, *, data_dir: Path | None, known: dict[Any, Any]) -> Lack:
        """Return the probe tasks that the record is without."""
        return lacking(record, path, settings.tasks, data_dir=data_dir, known=known, why_not=_one_class)

    def total(self) -> int:
        """Return three times the number of probe tasks: each is read, put to the SAEs, then to what stands beside them."""
        return self._steps() * len(probe_tasks(self.settings.tasks))

    def _steps(self) -> int:
        return 2 if self.settings.protocol == "sae_probes" else 3

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Raises:
            InputError: A name that no probe task has, or not one task whose data are there.
        """
        settings, port = self.settings, self.setting.port
        tasks, missing = self._tasks()
        encoded = [encode(task.texts, port, context_length=settings.context_length) for task in tasks]
        cache = user_cache()
        as_package = settings.protocol == "sae_probes"
        bench = Bench(
            Reader(port, settings.pooling, batch_size=self.setting.batch_size, cache=cache), tasks, encoded, l2=settings.l2,
            seed=self.setting.seed, bootstrap=0 if as_package else settings.bootstrap,
            permutations=0 if as_package else settings.permutations,
        )  # fmt: skip
        if as_package:
            return self._as_package(bench, saes, missing, cache)
        own = [self._dictionary(sae) for sae in saes]
        outcomes: list[list[TaskOutcome]] = [[] for _ in saes]
        ceiling: list[TaskOutcome] = []
        mean = _Mean()
        for number in range(len(tasks)):
            probe = bench.probe(number)
            mean.add(probe.acts.acts, probe.pooled[torch.from_numpy(probe.is_train)])
            ceiling.append(bench.ceiling(number, probe))
            for dictionary, found in zip(own, outcomes, strict=True):
                if isinstance(dictionary, Dictionary):
                    found.append(bench.outcome(number, probe, dictionary))
            self.setting.advance(1)
        beside, sizes = self._beside(mean, own)
        shared: dict[Any, list[TaskOutcome]] = {key: [] for key in beside}
        for number in range(len(tasks)):
            probe = bench.probe(number)
            for key, dictionary in beside.items():
                shared[key].append(bench.outcome(number, probe, dictionary))
            self.setting.advance(1)
        done = {key: Found(outcomes=shared[key], finite=beside[key].finite) for key in beside}
        notes = self._notes(bench, cache)
        results = []
        for dictionary, size, outcome in zip(own, sizes, outcomes, strict=True):
            found = {"": _found(dictionary, outcome), "neurons": done["neurons"], "pca": done["pca"]}
            found["random"] = Found(outcomes=(), reason=str(dictionary)) if size is None else done[size]
            found[CEILING] = Found(outcomes=ceiling)
            results.append(self._result(found, bench, missing, notes, size))
        return results

    def _as_package(
        self, bench: Bench, saes: Sequence[SAE], missing: Sequence[str], cache: ActsCache | None
    ) -> list[StudyResult]:
        """Return the results by the protocol ``sae_probes``."""
        settings = self.settings
        own = [
            protocol.KSparseFound(ks=settings.ks, norm=settings.norm, dictionary=Latents(self._own(sae), "last")) for sae in saes
        ]
        acts, told = [], []
        for number, task in enumerate(bench.tasks):
            probe = bench.probe(number)
            told.append(bench.about_probe(probe))
            held = held_out(int(task.is_train.sum()), None if task.shuffled else np.random.default_rng(self.setting.seed))
            acts.append(dense(probe.pooled.numpy(), probe.labels, probe.is_train, held))
            for found in own:
                found.add(probe, held)
            self.setting.advance(1)
        n, notes = len(bench.tasks), self._notes(bench, cache)
        drawn = draw_examples(n, settings.bootstrap, np.random.default_rng([self.setting.seed, n]))
        return [
            StudyResult(
                scores=protocol.scores(found, acts, drawn),
                series=protocol.series(found),
                raw=self._counts(bench, missing),
                data=self._data(bench),
                tables={"tasks": protocol.rows(found, acts, told, bench.about)},
                notes=notes,
                missing=tuple(missing),
            )
            for found in own
        ]

    def _tasks(self) -> tuple[list[ProbeExamples], list[str]]:
        """Return the tasks whose data are there, and what is to be said of the others."""
        tasks: list[ProbeExamples] = []
        missing: list[str] = []
        setting = self.setting
        for one in load_examples(self.settings.tasks, seed=setting.seed, limit=setting.limit, data_dir=setting.data_dir):
            why = one.reason if isinstance(one, MissingProbe) else _one_class(one)
            if isinstance(one, ProbeExamples) and why is None:
                tasks.append(one)
                setting.advance(1)
            else:
                missing.append(str(why))
                setting.advance(self._steps())
        if not tasks:
            raise InputError(f"no probe task of {', '.join(self.settings.tasks)} can be had; the first: {missing[0]}")
        return tasks, missing

    def _dictionary(self, sae: SAE) -> Dictionary | str:
        """Return what is probed, or why nothing can be."""
        if self.settings.latents == "pre" and sae.config.pursuit is not None:
            return "matching pursuit has no pre-activations; probe its latents with `latents: post`"
        return (Latents if self.settings.latents == "post" else PreActivations)(self._own(sae), self.settings.pooling)

    def _own(self, sae: SAE) -> SAE:
        """Return the SAE for the model's own acts."""
        return sae.that_centres(centring(self.setting.port, sae.config)[0])

    def _beside(self, mean: _Mean, own: Sequence[Dictionary | str]) -> tuple[dict[Any, Dictionary], list[tuple[int, int] | None]]:
        """Return what stands beside the SAEs by name, random dictionaries by (d_sae, k); and these for every SAE."""
        centre, components = mean_and_components(torch.cat(mean.pooled), self.setting.port.model.device)
        beside: dict[Any, Dictionary] = {"neurons": Directions(centre), "pca": Directions(centre, components)}
        sizes: list[tuple[int, int] | None] = []
        for dictionary in own:
            if isinstance(dictionary, str):
                sizes.append(None)
                continue
            k = round(dictionary.l0) if isinstance(dictionary, Latents) else 1  # before the activation k has no part in it
            sizes.append((dictionary.size, min(max(k, 1), dictionary.size)))
        for size in dict.fromkeys(size for size in sizes if size is not None):
            sae = random_dictionary(mean.of_tokens().to(centre.device), *size, seed=self.setting.seed)
            beside[size] = (Latents if self.settings.latents == "post" else PreActivations)(sae, self.settings.pooling)
        return beside, sizes

    def _positions(self) -> int:
        n_ctx = self.setting.port.model.n_ctx
        return min(self.settings.context_length or n_ctx, n_ctx)

    def _notes(self, bench: Bench, cache: ActsCache | None) -> tuple[str, ...]:
        cut, n = sum(one.n_cut for one in bench.encoded), sum(len(one.ids) for one in bench.encoded)
        told = [f"{cut} of {n} texts are longer than {self._positions()} positions; cut at the left"] if cut else []
        return (*_left_out(bench.tasks), *told, *(cache.notes if cache else ()))

    def _counts(self, bench: Bench, missing: Sequence[str]) -> dict[str, float | None]:
        return {
            "probe_tasks": float(len(bench.tasks)),
            "probe_tasks_missing": float(len(missing)),
            "texts_cut": float(sum(one.n_cut for one in bench.encoded)),
            "tokens_cut": float(sum(one.tokens_cut for one in bench.encoded)),
        }

    def _data(self, bench: Bench) -> DataInfo:
        return bench.data(f"probes:{','.join(self.settings.tasks)}", positions=self._positions())

    def _result(
        self, found: dict[str, Found], bench: Bench, missing: Sequence[str], notes: tuple[str, ...], size: tuple[int, int] | None
    ) -> StudyResult:
        numbers = self._counts(bench, missing)
        numbers["probe_random_k"] = float(size[1]) if size and self.settings.latents == "post" else None
        n = len(bench.tasks)
        drawn = draw_examples(n, self.settings.bootstrap, np.random.default_rng([self.setting.seed, n]))
        return StudyResult(
            scores=scores(found, bench.base, drawn),
            series=series(found),
            raw=raw(found) | numbers,
            data=self._data(bench),
            tables={"tasks": rows(found, bench.base, bench.about)},
            notes=notes,
            missing=tuple(missing),
        )


class _Mean:
    """What the baselines need to know of all acts."""

    def __init__(self) -> None:
        self.pooled: list[Tensor] = []
        """Pooled acts of the training texts, by task."""
        self._sum: Tensor | None = None
        self._n = 0

    def add(self, tokens: Tensor, pooled: Tensor) -> None:
        """Take note of one task."""
        self.pooled.append(pooled)
        total = tokens.double().sum(0)
        self._sum = total if self._sum is None else self._sum + total
        self._n += len(tokens)

    def of_tokens(self) -> Tensor:
        """Return the mean over all tokens, float32."""
        assert self._sum is not None  # there is a task at least
        return (self._sum / self._n).float()


def _found(dictionary: Dictionary | str, outcomes: Sequence[TaskOutcome]) -> Found:
    if isinstance(dictionary, str):
        return Found(outcomes=(), reason=dictionary)
    return Found(outcomes=outcomes, finite=dictionary.finite)


def _left_out(tasks: Sequence[ProbeExamples]) -> tuple[str, ...]:
    """Return what is to be said of texts that were left out, one line at most of several tasks."""
    noted = [task for task in tasks if task.notes]
    if len(noted) < 2:
        return tuple(note for task in noted for note in task.notes)
    return (
        f"{len(noted)} of {len(tasks)} probe tasks have texts twice, which count once, or with both labels, which are left out; "
        "the column `notes` of the table says how many",
    )


def _one_class(task: ProbeExamples) -> str | None:
    """Return what is wrong with the labels, or ``None``."""
    for part, which in (("training", task.is_train), ("test", ~task.is_train)):
        if len(np.unique(task.labels[which])) < 2:
            return f"{task.name}: its {part} texts are not of both classes, and a probe needs both; take more texts"
    return None
