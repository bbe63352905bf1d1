"""Task definitions: one YAML file a task, plus ``suites.yaml``. Adding a task adds a file and touches no code."""
