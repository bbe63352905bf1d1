"""How much of an SAE's error is wrong activations of the right latents. See :mod:`saebench.studies.shrinkage.study`."""

from saebench.studies.shrinkage.study import Shrinkage, ShrinkageSettings

__all__ = ["Shrinkage", "ShrinkageSettings"]
