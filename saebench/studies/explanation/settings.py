"""What a task file may say of the study ``explanation``."""

from __future__ import annotations

from saebench.studies.n2g.settings import PatternSettings


class ExplanationSettings(PatternSettings):
    """Settings of the study: how patterns are built; latents that are not chosen keep their values."""
