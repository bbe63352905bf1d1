"""The built-in trainers: one file a recipe over one shared loop; installed as ``saebench.trainers``.

A recipe registers itself with ``@RECIPES.register(name)``; third parties name an entry point in ``saebench.trainers``.
"""
