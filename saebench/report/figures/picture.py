"""A picture and its numbers: how both are written, and what all pictures share in looks."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from saebench.report.terminal import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEED = 0
"""Of whatever is drawn at random: where in its strip a point stands."""
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00")
"""Told apart by people who see colours differently (after Okabe & Ito 2008); black is for what is clean."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#B0B0B0"
_DPI = 150


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """One picture, not drawn yet."""

    name: str
    """Its file below the folder of all pictures, without suffix."""
    columns: Mapping[str, Sequence[Any] | NDArray[Any]]
    """The numbers that it shows, columns of one length."""
    paint: Callable[[Figure], None]
    """Draws them."""

    def figure(self) -> Figure:
        """Return it drawn; to be called, and the figure to be used, inside :func:`looks`."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        self.paint(figure)
        return figure

    def csv(self) -> bytes:
        """Return its numbers as CSV; null and NaN are empty fields."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*([_plain(v) for v in column] for column in self.columns.values()), strict=True))
        return out.getvalue().encode()

    def png(self) -> bytes:
        """Return it as PNG, the same bytes each time; under ``Source`` it holds the hash of its CSV."""
        out = io.BytesIO()
        with looks():
            about = {"Software": None, "Source": f"csv {hashlib.sha256(self.csv()).hexdigest()}"}
            self.figure().savefig(out, format="png", dpi=_DPI, metadata=about)
        return out.getvalue()


class Drawable(NamedTuple):
    """What a kind of picture makes of some sources."""

    pictures: list[Picture]
    missing: list[str]
    """What it could not make, and what that needs, a line each."""


@contextlib.contextmanager
def looks() -> Iterator[None]:
    """Draw the same whatever the user has told matplotlib elsewhere, and keep silent about letters that the font lacks."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 10,
                "figure.titlesize": 11,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.alpha": 0.3,
                "legend.frameon": False,
            }
        )
        yield


def label(text: str, longest: int = 44) -> str:
    """Return a name as a picture shows it: short, on one line, and nothing in it taken for a formula."""
    text = clean(text)
    short = text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest // 2) + 1 :]}"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")  # a legend leaves out what begins with _


def title(figure: Figure, *lines: str) -> None:
    """Write lines over all panels, each cut to what the figure is wide."""
    longest = int(12.5 * figure.get_figwidth())
    figure.suptitle("\n".join(label(line, longest) for line in lines))


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put the legend under all panels, in as many columns as fit."""
    widest = max((len(text) for text in labels), default=1) + 6
    columns = max(1, min(len(labels), int(figure.get_figwidth() * 16 / widest)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
