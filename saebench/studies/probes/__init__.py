"""Probes: which latent tells the classes of a labelled set of texts apart, and how well?"""
