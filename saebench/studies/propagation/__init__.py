"""Error propagation between SAEs of several sites, and whether the same tokens suffer at each."""

from saebench.studies.propagation.study import Propagation, PropagationSettings

__all__ = ["Propagation", "PropagationSettings"]
