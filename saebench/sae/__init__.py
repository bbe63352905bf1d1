"""SAEs: one inference class, sparse latents, sites, and the file formats people publish.

``sae`` computes (with ``activations``, ``pursuit`` and ``latents``). Files become one on this way: ``find`` asks the ``formats``
which of them a path is of; a format sees the path as a ``source``, which gets bytes from ``reading``; ``load`` and ``inspect``
take what it read. ``hub`` fetches what is not here (``origin`` remembers from where), ``export`` writes for other libraries.
"""

from saebench.sae.formats.native import save_native
from saebench.sae.latents import Latents
from saebench.sae.load import load_sae
from saebench.sae.sae import SAE, Chunk, SAEConfig, SAEWeights
from saebench.sae.site import Site

__all__ = ["SAE", "Chunk", "Latents", "SAEConfig", "SAEWeights", "Site", "load_sae", "save_native"]
