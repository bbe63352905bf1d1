# Everything a developer does, from a fresh clone. `make` alone lists it.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=

.PHONY: help venv demo demo-offline test test-slow test-peers fuzz check reference-saes results docs pictures bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

venv: $(STAMP) ## make .venv with everything pinned in constraints.txt

# torch goes first: what comes after it then takes the one that is there, also where it came from an index of one's own
TORCH_INDEX ?=
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --no-deps --retries 1 --index-url $(TORCH_INDEX) -c constraints.txt torch \
		|| echo 'no torch at $(TORCH_INDEX); taking the default one')
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

DEMO_CONTEXTS ?= 32
DEMO := $(BIN)/saebench run --limit $(DEMO_CONTEXTS) --out build/demo
demo: TORCH_INDEX := https://download.pytorch.org/whl/cpu
demo: $(STAMP) ## install, score the SAEs that ship with saebench, show the leaderboard; no network after the install
	rm -rf build/demo
	$(DEMO)
	@$(BIN)/saebench report build/demo --leaderboard --format md --output build/demo/report.md
	@echo 'Open the report with:  less build/demo/report.md'

demo-offline: TORCH_INDEX := https://download.pytorch.org/whl/cpu
demo-offline: $(STAMP) ## the run of `make demo` with the network forbidden, saying how
	rm -rf build/demo
	$(BIN)/python -m tests.offline $(DEMO)

test: $(STAMP) ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

PEERS := .venv-peers
$(PEERS)/.installed: constraints.txt benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	printf 'torch==%s\n' "$$($(PEERS)/bin/python -c 'import torch; print(torch.__version__.split("+")[0])')" > $(PEERS)/torch.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(PEERS)/torch.txt -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $(PEERS)/torch.txt -e '.[dev]'
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

test-peers: $(STAMP) $(PEERS)/.installed ## compare with the real libraries, and run the suite where they are: transformer-lens 3.9
	SAEBENCH_PEERS_PYTHON=$(PEERS)/bin/python $(BIN)/python -m pytest -m peers $(PYTEST_ARGS)
	SPARSIFY_DISABLE_TRITON=1 OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

test-slow: $(STAMP) ## run the tests that `make test` leaves out because they take long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m slow $(PYTEST_ARGS)

fuzz: $(STAMP) ## damage files of every SAE format at random for a minute (SAEBENCH_FUZZ_SECONDS, SAEBENCH_FUZZ_SEED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m fuzz -s tests/sae/test_fuzz.py $(PYTEST_ARGS)

check: $(STAMP) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

reference-saes: $(STAMP) ## train the SAEs that ship, from saebench/reference/configs, and write the manifest
	$(BIN)/python -m saebench.trainers.reference_saes

results: $(STAMP) ## score the SAEs that ship on the whole suite and the probes again: results/reference, leaderboard, README, pictures
	rm -rf build/results
	$(BIN)/saebench run --out build/results
	$(BIN)/saebench run --task storyworld_probes --out build/results
	rm -rf results/reference && mv build/results/reference results/
	$(BIN)/saebench report results --leaderboard --format md --output results/LEADERBOARD.md
	$(BIN)/python docs/generate.py

docs: $(STAMP) ## write what README and docs/ show of results/ again
	$(BIN)/python docs/generate.py

pictures: $(STAMP) ## only the pictures
	$(BIN)/python docs/generate.py pictures

SHARED ?= ../shared
bench: $(STAMP) $(PEERS)/.installed ## measure speed and memory against the peers, in one run
	$(BIN)/python benchmarks/core.py --peers $(PEERS)/bin/python --shared $(SHARED) --json benchmarks/figures/core.json
	$(BIN)/saebench run --sae $(SHARED)/saes/stories260K/saelens-topk --model $(SHARED)/models/stories260K --limit 8 \
		--corpus roneneldan/TinyStories --data-dir $(SHARED)/data --out build/bench-records
	$(BIN)/python benchmarks/start.py --records build/bench-records --json benchmarks/figures/start.json
	$(BIN)/python benchmarks/load.py --json benchmarks/figures/load.json
	$(BIN)/python benchmarks/storyworld.py --json benchmarks/figures/storyworld.json
	$(BIN)/python benchmarks/probes.py --json benchmarks/figures/probes.json
	$(BIN)/python benchmarks/probe_suite.py --shared $(SHARED) --json benchmarks/figures/probe_suite.json
	$(PEERS)/bin/python benchmarks/n2g.py --shared $(SHARED) --case stories --rounds 2 --json benchmarks/figures/n2g.json
	$(PEERS)/bin/python benchmarks/n2g.py --shared $(SHARED) --case gpt2-tokens --peer-latents 4 --contexts 256 --threads 2 \
		--json benchmarks/figures/n2g.json
	$(BIN)/python benchmarks/ablation.py --shared $(SHARED) --json benchmarks/figures/ablation.json
	$(BIN)/python -m benchmarks.behaviour --shared $(SHARED) --json benchmarks/figures/behaviour.json
	$(BIN)/python benchmarks/sae_probes.py --peers $(PEERS)/bin/python --json benchmarks/figures/sae_probes.json
	for what in quality dead memory speed pipeline; do \
		$(BIN)/python benchmarks/train.py $$what --peers $(PEERS)/bin/python --shared $(SHARED) || exit 1; done

clean: ## remove what the other targets made
	rm -rf $(VENV) $(PEERS) build dist .pytest_cache .ruff_cache *.egg-info
