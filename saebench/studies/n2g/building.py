"""Patterns of all SAEs of a site from the first half of a corpus.

The order is: read the first half, choose latents, build. What comes after is the business of the study that asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saebench.errors import InputError
from saebench.lm.prefix_tree import LastActs
from saebench.sae import SAE
from saebench.stream import centring
from saebench.studies.base import StudySetting
from saebench.studies.n2g.explained import Explained
from saebench.studies.n2g.pad import pad_token
from saebench.studies.n2g.reading import halves, read
from saebench.studies.n2g.settings import PatternSettings


def explain(setting: StudySetting, settings: PatternSettings, saes: Sequence[SAE]) -> tuple[list[Explained], int]:
    """Return the SAEs with patterns of the chosen latents, and the pad token.

    Args:
        setting: Site and text; told of every context of the first half, and of as many steps as there are contexts in all.
        settings: How patterns are built.
        saes: SAEs of the site.

    Raises:
        InputError: A latent that an SAE does not have, no usable pad token, or a single context.
    """
    port, corpus, advance = setting.port, setting.text, setting.advance
    parts = halves(corpus)
    _check(settings.latents, saes)
    pad = pad_token(port.model.tokenizer, port.model.d_vocab, of=port.model.id, wanted=settings.pad_token)
    explained = [Explained(sae.that_centres(centring(port, sae.config)[0]), settings, setting.seed) for sae in saes]
    for batch in read(port, [one.sae for one in explained], corpus, parts[0], batch_size=setting.batch_size):
        for one, fired in zip(explained, batch.fired, strict=True):
            one.add(fired)
        advance(batch.contexts.stop - batch.contexts.start)
    last_acts = LastActs(port, min(port.model.n_ctx, corpus.context_length + 1), batch_size=setting.batch_size)
    share = _Share(advance, len(corpus.tokens), len(saes))
    for one in explained:
        one.build(corpus, last_acts, pad, share.begin())
    return explained, pad


class _Share:
    """Tells the progress bar of the building, which has as many steps as there are contexts, whatever it consists of.

    Args:
        advance: Takes steps.
        steps: Of all SAEs together.
        n_saes: SAEs.
    """

    def __init__(self, advance: Callable[[int], None], steps: int, n_saes: int) -> None:
        self._advance, self._steps, self._n_saes = advance, steps, n_saes
        self._saes = self._told = 0

    def begin(self) -> Callable[[float], None]:
        """Return what is to be told how much of the next SAE, between 0 and 1, has been built."""
        before, self._saes = self._saes, self._saes + 1

        def tell(done: float) -> None:
            steps = int(self._steps * (before + done) / self._n_saes)
            if steps > self._told:
                self._advance(steps - self._told)
                self._told = steps

        return tell


def _check(latents: int | str | tuple[int, ...], saes: Sequence[SAE]) -> None:
    if not isinstance(latents, tuple):
        return
    if not latents:
        raise InputError("the list of latents is empty; name some, or give a number of them, or all")
    for sae in saes:
        bad = [latent for latent in latents if not 0 <= latent < sae.config.d_sae]
        if bad:
            raise InputError(
                f"{sae.config.name} has no latent {bad[0]}: it has {sae.config.d_sae}, numbered from 0; mend the setting latents"
            )
