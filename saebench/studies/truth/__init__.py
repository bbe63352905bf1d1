"""The study ``truth``: does an SAE find the variables of the made-up world that wrote the text?"""

from saebench.studies.truth.study import Truth, TruthSettings

__all__ = ["Truth", "TruthSettings"]
