"""SAEs: one inference class, sparse latents, sites, and the file formats people publish."""

from saebench.sae.formats.native import save_native
from saebench.sae.latents import Latents
from saebench.sae.load import load_sae
from saebench.sae.sae import SAE, Chunk, SAEConfig, SAEWeights
from saebench.sae.site import Site

__all__ = ["SAE", "Chunk", "Latents", "SAEConfig", "SAEWeights", "Site", "load_sae", "save_native"]
