"""Where cloze examples come from: one module a source, found by the registry ``SOURCES``."""
