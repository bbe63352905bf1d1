"""File formats of SAEs, one file each.

A format is a class, registered with ``@FORMATS.register(name)`` or by an entry point of the group ``saebench.formats``, with

- ``looked_for``: what its files are, for messages; left out where files are recognised only to be refused;
- ``rank``: the number of its rule: where several formats know the same file, the smallest wins. A format without one never
  gives way: what another one knows too is refused until ``--format`` chooses;
- ``detect(source) -> str | None``: the name of the file that holds the weights, if the files are of this format without any
  doubt. Reads settings and headers only;
- ``fits(source) -> bool``, optional: whether they may be; asked if nothing is detected, to tell which ``--format`` to try;
- ``below``, optional: names of folders in an SAE's folder that hold its weights, not other SAEs;
- ``own_files``, optional: true if an SAE is one file among others, so that its name comes from the file's;
- ``parts(source) -> list[str]``, optional: the SAEs of a file that holds several;
- ``read(source) -> Entry``: what the SAE is, from settings and headers, and how its weights are read.

``source`` is a :class:`saebench.sae.source.Source`. Whatever is wrong with the files is an ``InputError`` of one line.
"""
