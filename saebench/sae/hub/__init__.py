"""SAEs that are not here yet: ``hub:REPO[:FOLDER]`` and sae_lens' names ``saelens:RELEASE/ID``, fetched into the hub's cache.

``remote`` is the way in; ``repository`` and ``saelens`` open the two kinds of names; ``names`` tells from a repository's list of
files which SAEs it holds and what each needs, and ``fetch`` gets that.
"""
