"""Texts that are made, not read: one module a recipe, found by the registry ``PROBE_RECIPES``."""
