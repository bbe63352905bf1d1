"""Probes: which latent tells the classes of a labelled set of texts apart, and how well?"""

from saebench.studies.probes.study import Probes, ProbesSettings

__all__ = ["Probes", "ProbesSettings"]
