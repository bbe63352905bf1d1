"""Recipes that train SAEs: one file a recipe.

Third parties add theirs through the entry-point group ``saebench.trainers``.
"""
