"""The study ``n2g``: how well short patterns of tokens explain when a latent fires."""

from saebench.studies.n2g.settings import N2GSettings
from saebench.studies.n2g.study import N2G

__all__ = ["N2G", "N2GSettings"]
