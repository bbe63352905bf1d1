"""An example of a plug-in: what the made-up laboratory Acorn adds to saebench, one file a thing."""
