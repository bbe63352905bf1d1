"""The language model: loading, the prefix/suffix split, splicing, and chunked losses."""
