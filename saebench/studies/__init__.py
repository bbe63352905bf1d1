"""Studies: what is measured after the pass over the corpus, on texts of their own, all SAEs of a site together."""
