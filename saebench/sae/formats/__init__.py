"""File formats of SAEs, one file each.

A format is a class with ``looked_for`` (what its files are, for messages), ``detect(path)`` and ``load(path)``, registered with
``@FORMATS.register(name)``. ``path`` is a folder, or a file. ``detect`` reads JSON and headers only.
"""
