"""Contexts with coloured tokens, and histograms, as HTML and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from saebench.dashboard.collect import Example
from saebench.dashboard.histogram import Bar
from saebench.dashboard.tokens import TokenTexts, plain, visible
from saebench.data import Corpus

BEFORE, AFTER = 40, 15
"""Tokens shown before and behind the one that an example is about."""
_WIDTH, _HEIGHT = 480, 90
_DOTS = Markup('<span class="cut">…</span>')
_RECT = Markup('<rect x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}</title></rect>')
_SVG = Markup('<svg class="histogram" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>')
_TOKEN = Markup('<span class="{}" style="--a:{:.2f}" title="{}">{}</span>')
_OFF = Markup('<span title="{}">{}</span>')


def number(value: float | None) -> str:
    """Return a number with three digits; ``n/a`` for none."""
    return "n/a" if value is None else f"{value:.3g}"


def share(value: float) -> str:
    """Return a share as a percentage with three digits."""
    return f"{value * 100:.3g} %"


def context_line(example: Example, corpus: Corpus, texts: TokenTexts, largest: float) -> Markup:
    """Return the text around an example, each token coloured by |activation| / |largest|, its numbers in a tooltip.

    Tokens without an activation have no colour, those whose activation is negative another one; the one that the example is about
    has a frame.

    Args:
        example: Where.
        corpus: The text.
        texts: Of its tokens.
        largest: The latent's activation of largest size.
    """
    valid, scored, tokens = (part[example.context].tolist() for part in (corpus.valid, corpus.scored, corpus.tokens))
    places = [p for p in range(example.position - BEFORE, example.position + AFTER + 1) if 0 <= p < len(tokens) and valid[p]]
    parts: list[Markup] = [_DOTS] if any(valid[: places[0]]) else []
    for place in places:
        text, value = texts.of(tokens[place]), example.values.get(place, 0.0)
        known = f"{value:.4g}" if scored[place] else "not scored"
        title = f"{known} · token {tokens[place]} “{plain(text)}” · position {place}"
        if value:
            kind = f"t{' n' if value < 0 else ''}{' p' if place == example.position else ''}"
            parts.append(_TOKEN.format(kind, min(1.0, abs(value / largest)), title, visible(text)))
        else:
            parts.append(_OFF.format(title, visible(text)))
    if any(valid[places[-1] + 1 :]):
        parts.append(_DOTS)
    return Markup("<wbr>").join(parts)


def histogram(bars: Sequence[Bar]) -> Markup:
    """Return a picture of a histogram; the height of a bar is log(1 + count), its numbers stand in a tooltip."""
    most = max((bar.n for bar in bars), default=0)
    if not most:
        return Markup("")
    width = _WIDTH / len(bars)
    rects = []
    for i, bar in enumerate(bars):
        if bar.n:
            height = max(1.0, _HEIGHT * math.log1p(bar.n) / math.log1p(most))
            said = f"{number(bar.low)} to {number(bar.high)}: {bar.n:,}"
            rects.append(_RECT.format(i * width, _HEIGHT - height, width * 0.9, height, said))
    said = f"{sum(bar.n for bar in bars):,} activations from {number(bars[0].low)} to {number(bars[-1].high)}"
    return _SVG.format(_WIDTH, _HEIGHT, said, Markup("").join(rects))
