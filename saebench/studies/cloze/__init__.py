"""Cloze tasks: a text with a gap, and how well the model fills it, clean and spliced."""

from saebench.studies.cloze.study import Cloze, ClozeSettings

__all__ = ["Cloze", "ClozeSettings"]
