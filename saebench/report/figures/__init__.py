"""What the studies of behaviour have found, as pictures (PNG), and beside each the numbers that it shows (CSV).

One file a kind of picture, gathered by ``draw``. Needs matplotlib, numpy and pyarrow, and neither torch nor transformers.
"""
