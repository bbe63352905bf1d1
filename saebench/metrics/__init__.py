"""Metrics: each is one file, registered by a decorator, fed from one pass over the corpus."""
