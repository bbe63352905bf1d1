"""Records to views: terminal table, Markdown, CSV, JSON. Imports neither torch nor transformers."""
