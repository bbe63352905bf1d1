"""Any task of lm-eval, with and without an SAE in the model."""

from saebench.studies.lm_eval.study import LmEval, LmEvalSettings

__all__ = ["LmEval", "LmEvalSettings"]
