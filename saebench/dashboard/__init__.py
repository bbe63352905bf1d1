"""Pages for looking at single latents of one SAE: one HTML file that needs neither network nor scripts.

What is measured here is read off one pass over a text; the rest is taken from records, or made by the studies' own code.
"""
