"""What an SAE in front of the first block makes of tokens and of positions. See :mod:`saebench.studies.positional.study`."""

from saebench.studies.positional.study import Positional, PositionalSettings

__all__ = ["Positional", "PositionalSettings"]
