"""The study ``ablation``: on how few predictions the effect of one latent falls (Gao et al. 2024, §4.5)."""

from saebench.studies.ablation.study import Ablation, AblationSettings

__all__ = ["Ablation", "AblationSettings"]
