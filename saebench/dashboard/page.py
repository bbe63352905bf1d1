"""The page: what was found about some latents, as one HTML file.

The file holds its style, and neither scripts nor references to anything outside it; a policy in its head forbids both. Everything
that comes from a model, an SAE, a text or a record is escaped: by jinja2, and token by token where white space is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from saebench import __version__
from saebench.api import Session
from saebench.dashboard.collect import Example, Seen
from saebench.dashboard.drawing import context_line, histogram, number, share
from saebench.dashboard.logits import Pushed, Pushes
from saebench.dashboard.sections import Lack, Patterns, Sections
from saebench.dashboard.tokens import TokenTexts, plain, visible

_LEGEND = (
    "Colours: the activation as a share of the latent's largest one; point at a token for its number. The framed token is "
    "the one that a context is shown for. Dots are spaces."
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """All that was found."""

    session: Session
    seed: int
    seen: Sequence[Seen]
    pushes: Sequence[Pushes] | str
    """Of each latent, or why there are none."""
    sections: dict[int, Sections]
    notes: Sequence[str] = field(default_factory=tuple)


def render(found: Found) -> str:
    """Return the page."""
    session = found.session
    c, model, corpus = session.sae.config, session.model, session.corpus
    texts = TokenTexts(model.tokenizer)
    where = session.port.read.name if session.port.read.name == session.port.write.name else (
        f"{session.port.read.name} → {session.port.write.name}"
    )  # fmt: skip
    n_contexts, length, n_tokens = len(corpus.tokens), corpus.context_length, int(corpus.scored.sum())
    about = [
        ("SAE", f"{c.path or c.name} ({session.sae.sha256[:8]})"),
        ("format", f"{c.format or 'n/a'}, {c.architecture}"),
        ("latents", f"{c.d_sae:,}{f', k = {c.k}' if c.k else ''}"),
        ("model", model.id if model.revision is None else f"{model.id} ({model.revision[:12]})"),
        ("site", where),
        ("text", f"{corpus.name}, {n_contexts:,} contexts of {length} tokens, {n_tokens:,} tokens scored, seed {found.seed}"),
    ]
    latents = [
        _latent(found, seen, None if isinstance(found.pushes, str) else found.pushes[i], texts, n_tokens)
        for i, seen in enumerate(found.seen)
    ]
    page = _template().render(
        title=plain(f"{c.name} · {where} · {model.name}"),
        style=Markup(_file("page.css")),  # ours, and without a closing tag
        about=[(name, plain(value)) for name, value in about],
        notes=[plain(note) for note in found.notes],
        legend=_LEGEND,
        latents=latents,
        no_pushes=found.pushes if isinstance(found.pushes, str) else None,
        footer=f"saebench {__version__}, saebench dashboard; text {corpus.sha256[:16]}",
    )
    return page.strip() + "\n"


def _latent(found: Found, seen: Seen, pushes: Pushes | None, texts: TokenTexts, n_tokens: int) -> dict[str, Any]:
    sections, session = found.sections[seen.latent], found.session
    norm = float(session.sae.W_dec[seen.latent].double().norm())
    density = share(seen.n_fires / n_tokens)
    facts = [
        ("density", f"{density} ({seen.n_fires:,} of {n_tokens:,} tokens)"), ("mean activation", number(seen.mean)),
        ("largest activation", number(seen.largest)), ("decoder norm", number(norm)),
    ]  # fmt: skip
    dead = None if seen.n_fires else f"Dead: it fires at none of the {n_tokens:,} tokens that were read."
    return {
        "index": seen.latent, "facts": facts, "dead": dead, "density": density if seen.n_fires else "dead",
        "mean": number(seen.mean), "largest": number(seen.largest), "f1": number(sections.f1), "badges": sections.badges,
        "histogram": histogram(seen.bars), "low": number(seen.bars[0].low) if seen.bars else "",
        "tallest": f"{max((bar.n for bar in seen.bars), default=0):,}",
        "high": number(seen.bars[-1].high) if seen.bars else "",
        "promoted": _tokens(pushes.promoted, texts) if pushes else [],
        "suppressed": _tokens(pushes.suppressed, texts) if pushes else [],
        "patterns": _patterns(sections.patterns),
        "ablated": sections.ablated if isinstance(sections.ablated, Lack) else [
            {"facts": one.facts, "origin": one.origin, "promoted": _tokens(one.promoted, texts),
             "suppressed": _tokens(one.suppressed, texts)}
            for one in sections.ablated
        ],
        "probes": sections.probes, "scores": sections.scores,
        "top": _examples(seen.top, seen, found, texts), "random": _examples(seen.random, seen, found, texts),
    }  # fmt: skip


def _examples(examples: Sequence[Example], seen: Seen, found: Found, texts: TokenTexts) -> list[tuple[str, Markup]]:
    corpus, largest = found.session.corpus, seen.largest or 1.0
    return [
        (
            f"{number(example.values[example.position])} · context {example.context}, position {example.position}",
            context_line(example, corpus, texts, largest),
        )
        for example in examples
    ]


def _tokens(some: Sequence[Pushed], texts: TokenTexts) -> list[tuple[Markup, str]]:
    return [(visible(texts.of(one.token)), f"{one.value:+.3g}") for one in some]


def _patterns(one: Patterns | Lack) -> dict[str, Any] | Lack:
    if isinstance(one, Lack):
        return one
    return {"facts": one.facts, "origin": one.origin, "lines": [plain(line) for line in one.lines]}


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    return environment.from_string(_file("page.html.j2"))


def _file(name: str) -> str:
    return (resources.files("saebench.dashboard") / name).read_text(encoding="utf-8")
