"""The one loop behind every recipe: acts → buffer → step → schedule → log → checkpoint → evaluation → native folder.

One or many SAEs are trained on one stream: the model's forward and the buffer are shared.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from saebench.data import Corpus
from saebench.errors import IncompleteError, InputError
from saebench.lm.port import Port
from saebench.progress import Progress, SilentProgress
from saebench.provenance import machine, source_commit, versions
from saebench.registry import METRICS
from saebench.sae import SAE, save_native
from saebench.sae.export import export_notes, export_sae
from saebench.stream import Pass, PassResult

from .acts.buffer import ShuffleBuffer
from .acts.prefetch import Prefetch
from .acts.source import Source
from .checkpoint import checkpoint_file, load_checkpoint, save_checkpoint
from .figures import write_report
from .journal import Broken, Journal, Watch
from .ranks import Ranks
from .settings import Run
from .stop import Stop
from .trainee import Step, Trainee

_AGREE_EVERY = 10
_SCORES = ("explained_variance", "l0", "frac_alive", "delta_ce", "ce_recovered_zero")


@dataclass
class _Seat:
    """A trainee with what is kept about it."""

    trainee: Trainee
    journal: Journal
    watch: Watch
    port: Port
    site: int
    broken: str | None = None


_MAY_CHANGE = {"out", "data_dir", "cache", "prefetch", "spike", "checkpoint_every", "tensorboard", "wandb"}
"""Settings of a run that change neither its weights nor its curve."""


def _told(runs: Sequence[Run], ranks: Ranks) -> str:
    """Return what a checkpoint must agree with, as JSON."""
    each = [
        run.config.model_dump(mode="json", exclude=_MAY_CHANGE)
        | {"cached": run.config.cache is not None}
        | run.settings.model_dump(mode="json")
        for run in runs
    ]
    return json.dumps({"processes": ranks.world, "": each})


class Loop:
    """Trains SAEs to the end, or from a checkpoint on.

    Args:
        runs: What to train; they share the settings of the stream (those of the first are read).
        ports: The site of each.
        source: Gives acts of the sites in the order of ``sites``.
        sites: Their names.
        sample: Acts of each site, for starting values.
        corpora: (text to train on, held-out text).
        folder: Where the checkpoint lies.
        ranks: The processes that share the work.

    Raises:
        InputError: A setting is impossible, or a checkpoint in ``folder`` belongs to another run.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        ports: Sequence[Port],
        source: Source,
        *,
        sites: Sequence[str],
        sample: Sequence[Tensor],
        corpora: tuple[Corpus, Corpus],
        folder: Path,
        ranks: Ranks,
    ) -> None:
        self.config, self.folder, self.ranks = runs[0].config, folder, ranks
        self.corpus, self.held_out = corpora
        self.device = ports[0].model.device
        self._source = source
        self._buffer = ShuffleBuffer(source, self.config.buffer_tokens, self.config.seed + 2)
        model = ports[0].model
        self._identity = {
            "config": _told(runs, ranks), "corpus": self.corpus.sha256, "model": model.sha256 or f"{model.id}@{model.revision}",
        }  # fmt: skip
        saved = load_checkpoint(folder, ranks, **self._identity)
        self._seats = []
        for run, port in zip(runs, ports, strict=True):
            site = list(sites).index(run.config.site)
            centres = port.model.uses_layer_norm and port.read.written_to_stream
            if run.config.residual == "centred" and not centres:
                raise InputError(
                    f"{run.config.site} of {port.model.id} has no centred form (only what is written to the residual stream of a "
                    "model with LayerNorm has); leave residual=centred out"
                )
            trainee = Trainee(run, sample[site], self.device, ranks, centres=centres)
            journal = Journal(run.config, quiet=not ranks.first)
            self._seats.append(_Seat(trainee, journal, Watch(run.config.spike), port, site))
        self.step = 0
        if saved is not None:
            self._restore(saved)
        if len(self.ranks.gather(torch.tensor(self.step, device=self.device)).unique()) > 1:
            raise InputError(f"the processes' checkpoints in {folder} are of different steps; delete them, or use another --out")

    def run(self, progress: Progress | SilentProgress) -> list[SAE]:
        """Train to the end, write the native folders, and return the SAEs.

        Raises:
            IncompleteError: A loss is not finite or a spike. The message names the step and the last checkpoint; the other
                SAEs of a sweep are finished first.
        """
        config = self.config
        what = config.recipe if len(self._seats) == 1 else f"{len(self._seats)} SAEs"
        progress.start(config.steps, f"{what} · {config.site}" if len(self._seats) == 1 else what, self.step)
        self._clock, self._clock_step = time.perf_counter(), self.step
        try:
            with Stop() as stop:
                while self.step < config.steps and self._going():
                    if self._told_to_stop(stop):
                        self._leave(progress)
                    self._one_step(progress)
                    progress.advance(1)
            try:
                return self._finish(progress)
            except KeyboardInterrupt:
                self._leave(progress)
        finally:
            for seat in self._seats:
                seat.journal.close()
            if isinstance(self._source, Prefetch):
                self._source.close()

    def _leave(self, progress: SilentProgress) -> NoReturn:
        """Save and interrupt. Only called between steps: a second signal, within a step, leaves the last checkpoint alone."""
        self._check()
        if self._going():
            progress.note(f"stopped at step {self.step}; the same command goes on from {self.save()}")
        raise KeyboardInterrupt

    def _told_to_stop(self, stop: Stop) -> bool:
        """Return whether to stop before the next step; several processes agree on it every few steps."""
        if self.ranks.world == 1:
            return stop.wanted
        return self.step % _AGREE_EVERY == 0 and self.ranks.any_rank(stop.wanted, self.device)

    def _going(self) -> list[_Seat]:
        return [seat for seat in self._seats if seat.broken is None]

    def _one_step(self, progress: Progress | SilentProgress) -> None:
        config = self.config
        acts = self._buffer.batch(config.batch_size)
        if self.ranks.split_data:
            own = self.ranks.slice_of(config.batch_size, "batch_size")
            acts = [a[own] for a in acts]
        steps: list[tuple[_Seat, Step]] = []
        for seat in self._going():
            step = seat.trainee.learn(acts[seat.site])
            seat.watch.add(seat.trainee.step, step.loss)
            steps.append((seat, step))
        self.step += 1
        last = self.step == config.steps
        if self.step % config.log_every == 0 or last:
            self._log(steps, progress)
        if config.eval_every and self.step % config.eval_every == 0 and not last:
            self._check()
            for seat in self._going():
                self._evaluate(seat)
        if config.checkpoint_every and self.step % config.checkpoint_every == 0 and not last:
            self._check()
            if self._going():
                self.save()

    def _check(self) -> None:
        for seat in self._going():
            try:
                seat.watch.check()
            except Broken as error:
                seat.broken = str(error)
                seat.journal.write()

    def _log(self, steps: list[tuple[_Seat, Step]], progress: Progress | SilentProgress) -> None:
        self._check()
        now = time.perf_counter()
        speed = (self.step - self._clock_step) * self.config.batch_size / max(now - self._clock, 1e-9)
        shown = ""
        for seat, step in steps:
            if seat.broken is None:
                row = seat.trainee.row(step)
                seat.journal.add(row | {"tokens_per_second": speed})
                shown = (
                    f"loss {row['loss']:.4g} · EV {row['explained_variance']:.4f} · L0 {row['l0']:.1f} · "
                    f"dead {row['dead_share']:.1%} · {speed:,.0f} tokens/s"
                )
        progress.status(shown)
        self._clock, self._clock_step = time.perf_counter(), self.step

    def _evaluate(self, seat: _Seat) -> tuple[SAE, PassResult] | None:
        """Add the harness's own scores on the held-out contexts to the last row of the log.

        Returns:
            The SAE and all scores; ``None`` if its weights have become NaN or infinite, and then the run is broken.
        """
        try:
            sae = seat.trainee.sae()
        except InputError:  # a finite loss may still have given an infinite step
            seat.broken = f"the weights are no longer finite at step {self.step}"
            seat.journal.write()
            return None
        metrics = [METRICS.get(name) for name in ("reconstruction", "sparsity", "splice")]
        quiet = self._source.paused() if isinstance(self._source, Prefetch) else contextlib.nullcontext()
        with quiet:
            [result] = Pass(seat.port, [sae.to(device=self.device)], metrics, self.held_out).run()
        scores = {score.name: score.value for part in result.results for score in part.scores}
        if not seat.journal.rows or seat.journal.rows[-1]["step"] != self.step:
            seat.journal.rows.append({"step": float(self.step), "tokens": float(self.step * self.config.batch_size)})
        seat.journal.extend({f"held_out_{name}": value for name in _SCORES if (value := scores[name]) is not None})
        return sae, result

    def _finish(self, progress: SilentProgress) -> list[SAE]:
        self._check()
        saes, unwritten = [], []
        for seat in self._going():
            found = self._evaluate(seat)
            if found is None:
                continue
            saes.append(found[0])
            if self.ranks.first:
                unwritten += self._write(seat, *found, progress)
        self.ranks.wait()
        broken = [f"{seat.trainee.config.out.name}: {seat.broken}" for seat in self._seats if seat.broken is not None]
        if broken:
            path = checkpoint_file(self.folder, self.ranks)
            kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"
            raise IncompleteError("; ".join([*broken, kept, "try a smaller lr", *unwritten]))
        checkpoint_file(self.folder, self.ranks).unlink(missing_ok=True)
        if unwritten:
            raise IncompleteError(f"trained and written, but not exported: {'; '.join(unwritten)}")
        return saes

    def _write(self, seat: _Seat, sae: SAE, result: PassResult, progress: SilentProgress) -> list[str]:
        """Write what a run leaves, its SAE first, and return the exports that failed, each with its reason."""
        config, failed = seat.trainee.config, []
        series = [s for part in result.results for s in part.series if s.name == "log10_density_histogram"]
        write_report(config.out, seat.journal.rows, series[0] if series else None)
        save_native(sae, config.out, training=self._provenance(seat))
        for to in config.export:
            try:
                progress.note(f"{to}: {export_sae(sae, config.out / to, to)}")
            except InputError as error:
                failed.append(str(error))
                continue
            for note in export_notes(sae, to):
                progress.note(f"{to}: {note}")
        return failed

    def _provenance(self, seat: _Seat) -> dict[str, Any]:
        trainee, model = seat.trainee, seat.port.model
        return {
            "run": json.loads(trainee.config.model_dump_json(exclude={"out"})),
            "settings": json.loads(trainee.settings.model_dump_json()),
            "processes": self.ranks.world,
            "corpus_sha256": self.corpus.sha256,
            "model_sha256": model.sha256,
            "model_revision": model.revision,
            "versions": versions(),
            **source_commit(),
            **machine(str(self.device)),
            "last_row": seat.journal.rows[-1],
        }

    def save(self) -> Path:
        """Write a checkpoint and return its file."""
        state = self._identity | {
            "step": self.step,
            "buffer": self._buffer.state(),
            "seats": [
                {"trainee": s.trainee.state(), "rows": s.journal.rows, "losses": s.watch.past, "broken": s.broken}
                for s in self._seats
            ],
        }
        return save_checkpoint(self.folder, self.ranks, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._buffer.restore(state["buffer"], self.device)
        for seat, saved in zip(self._seats, state["seats"], strict=True):
            seat.trainee.restore(saved["trainee"])
            seat.journal.rows, seat.watch.past, seat.broken = saved["rows"], saved["losses"], saved["broken"]
