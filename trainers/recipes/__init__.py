"""One file a recipe: its loss, its constraints, and its defaults with their source.

A recipe registers itself with ``@RECIPES.register(name)``; third parties name an entry point in ``saebench.trainers``.
"""
