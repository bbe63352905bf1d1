"""The study ``explanation``: the model with latents replaced by what their explanations say of them."""

from saebench.studies.explanation.settings import ExplanationSettings
from saebench.studies.explanation.study import Explanation

__all__ = ["Explanation", "ExplanationSettings"]
