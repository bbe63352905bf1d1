"""Small cloze tasks, and what a plain Hugging Face forward says of them, one text at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.cloze import Cloze, ClozeSettings
from saebench.studies.cloze.examples import SOURCES, Example, Texts
from saebench.studies.cloze.latents import LatentSettings

SITE = "blocks.1.hook_resid_pre"


def words(*numbers: int) -> str:
    return " ".join(f"w{n}" for n in numbers)


def candidate_examples(n: int = 7, seed: int = 0, rest: int = 2) -> list[Example]:
    """Return examples of unequal length over the words w4 … w95, with two to four candidates."""
    g = np.random.default_rng(seed)
    out = []
    for i in range(n):
        choices = g.choice(np.arange(4, 96), 2 + i % 3, replace=False)
        prompt = words(*g.integers(4, 96, 3 + 2 * i))
        after = "".join(f" w{w}" for w in g.integers(4, 96, rest))
        out.append(
            Example(prompt=prompt, candidates=tuple(f"w{w}" for w in choices), answer=int(g.integers(len(choices))), rest=after)
        )
    return out


def last_word_examples(model: LanguageModel, n: int = 8, seed: int = 0) -> list[Example]:
    """Return examples whose answers the model would write itself in every other case."""
    g = np.random.default_rng(seed)
    out = []
    for i in range(n):
        ids = [1, *g.integers(4, 96, 4 + i)]
        own = int(model.hf(torch.tensor([ids])).logits[0, -1, 4:].argmax()) + 4
        # the model may prefer one of the four special tokens; then it is wrong either way, as the oracle knows too
        target = own if i % 2 else 4 + (own - 3) % 92
        out.append(Example(prompt=words(*ids[1:]), candidates=(f"w{target}",), answer=0))
    return out


def run(
    port: Port,
    saes: Sequence[SAE],
    examples: list[Example],
    monkeypatch: Any,
    *,
    answer: Any = "candidates",
    latents: LatentSettings | None = ClozeSettings.model_fields["latents"].default,
    **options: Any,
) -> list[StudyResult]:
    """Run the study on ``examples``."""
    source = {"given": lambda _seed, n, _data_dir: Texts(name="given", examples=examples[:n])}
    SOURCES.names()
    monkeypatch.setattr(SOURCES, "_members", SOURCES._members | source)
    settings = ClozeSettings(examples="given", answer=answer, n=len(examples), ngram_words=0, latents=latents)
    return Cloze(StudySetting(port=port, seed=0, **options), settings).run(saes)


def values(result: StudyResult) -> dict[str, float | None]:
    return {score.name: score.value for score in result.scores}


def plain(
    model: LanguageModel, example: Example, candidate: str, sae: SAE | None = None, *, splice_bos: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return ln p of every token but the first, whether it is the most likely one, and how many tokens the prompt has.

    One Hugging Face forward of one text; with an SAE, a hook in front of block 1 puts its recon in the place of what comes in.
    """
    block = model.hf.transformer.h[1] if model.family == "gpt2" else model.hf.model.layers[1]

    def swap(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        acts = args[0] if args else kwargs["hidden_states"]
        recon = torch.stack([sae.reconstruct(a) for a in acts]).to(acts.dtype)  # pyright: ignore[reportOptionalMemberAccess]
        if not splice_bos:
            recon[:, 0] = acts[:, 0]
        return ((recon, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": recon})

    bos = model.tokenizer.bos_token_id
    prompt = [bos, *model.tokenizer(example.prompt, add_special_tokens=False)["input_ids"]]
    ids = torch.tensor([[bos, *model.tokenizer(example.filled(candidate), add_special_tokens=False)["input_ids"]]])
    assert ids[0, : len(prompt)].tolist() == prompt
    handle = block.register_forward_pre_hook(swap, with_kwargs=True) if sae else None
    with torch.no_grad():
        logits = model.hf(input_ids=ids, use_cache=False).logits[0, :-1]
    if handle:
        handle.remove()
    lnp = logits.double().log_softmax(1).gather(1, ids[0, 1:, None])[:, 0]
    return lnp.numpy(), (logits.argmax(1) == ids[0, 1:]).numpy(), len(prompt)
