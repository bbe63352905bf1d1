"""Run by torchrun in test_ranks.py: train every job of a YAML file, and write down what was refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

from saebench.errors import InputError
from saebench.trainers.run import train

jobs, said = yaml.safe_load(Path(sys.argv[1]).read_text()), {}
for name, (recipe, values) in jobs.items():
    try:
        train(recipe, values)
    except InputError as error:
        said[name] = str(error)
if os.environ["RANK"] == "0":
    Path(sys.argv[2]).write_text(json.dumps(said))
