# Set-up, demo, tests and lint; `make` alone lists the targets.

# The Python that .venv is made with: 3.10 to 3.13.
PYTHON ?= python3
# The torch to install where .venv has none that setup.py accepts, and the
# package index to take it from (empty: pip's own choice).
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# What `make demo` runs.
DEMO := hparams/distill_teacher_mae_exp.yaml
# What `make tables` runs, on the corpus DATA.
MATRICES ?= $(addprefix experiments/,table1.yaml table2.yaml robustness.yaml \
	controls.yaml)

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Whatever state .venv is in, never install into the Python it was made with.
export PIP_REQUIRE_VIRTUALENV = 1

# Two stamps: a finished set-up is not repeated until a file that describes it
# changes, and one cut short while it made .venv starts again with a new one.
FINISHED := .venv/.setup-finished
STARTED := .venv/.setup-started

define SUPPORTED_PYTHON
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit("Python 3.10 to 3.13 is needed, and %s is Python %d.%d. Choose "
             "another one, for example: make setup PYTHON=python3.12"
             % ((sys.executable,) + sys.version_info[:2]))
endef
export SUPPORTED_PYTHON

define ACCEPTED_TORCH
import re, sys
from importlib.metadata import version

def key(text):
    return [int(number) for number in re.findall("[0-9]+", text)[:3]]

low, high = re.search('"torch>=(.+?),<(.+?)"', open("setup.py").read()).groups()
sys.exit(not key(low) <= key(version("torch")) < key(high))
endef
export ACCEPTED_TORCH

.DEFAULT_GOAL := help
.PHONY: help setup demo pad two-stage cif tables report package test lint clean

help: ## list the targets and the variables
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | \
		awk -F'|' '{ printf "%-17s %s\n", $$1, $$2 }'
	@echo "Variables of the set-up:"
	@echo "  PYTHON=$(PYTHON)  the Python that .venv is made with, 3.10 to 3.13"
	@echo "  TORCH=$(TORCH)  the torch to install; one that .venv has is kept"
	@echo "  TORCH_INDEX=$(TORCH_INDEX)  the package index to take torch from,"
	@echo "    for example https://download.pytorch.org/whl/cpu for no CUDA"

setup: $(FINISHED) ## install all that is needed into .venv

$(FINISHED): setup.py pyproject.toml slu_kd_lobes/utils/repair_torchaudio.py
	@if [ -e $(STARTED) ]; then \
		echo "The last set-up did not finish: starting with a new .venv."; \
		rm -rf .venv; \
	fi
	@if [ -e .venv/pyvenv.cfg ] && [ -x $(BIN)/python ]; then \
		echo "[1/4] Keeping the .venv that is here"; \
		$(BIN)/python -c "$$SUPPORTED_PYTHON"; \
	elif ! command -v "$(PYTHON)" >/dev/null; then \
		echo "There is no $(PYTHON). Choose a Python from 3.10 to 3.13," \
			"for example: make setup PYTHON=python3.12" >&2; \
		exit 1; \
	else \
		"$(PYTHON)" -c "$$SUPPORTED_PYTHON" && \
		echo "[1/4] Making .venv" && \
		mkdir -p .venv && touch $(STARTED) && \
		"$(PYTHON)" -m venv .venv; \
	fi
	@if $(BIN)/python -c "$$ACCEPTED_TORCH" 2>/dev/null; then \
		echo "[2/4] Keeping the torch that is in .venv"; \
	else \
		echo "[2/4] Installing $(TORCH), the largest download"; \
		$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"; \
	fi
	@echo "[3/4] Installing slu_kd_lobes and what else it needs"
	@$(PIP_INSTALL) --editable '.[dev]'
	@echo "[4/4] Checking torchaudio"
	@$(BIN)/python -m slu_kd_lobes.utils.repair_torchaudio
	@rm -f $(STARTED)
	@touch $(FINISHED)
	@echo "Done. The Python to use is $(BIN)/python"

demo: setup ## train the default student on the small corpus
	$(BIN)/python train.py $(DEMO)

pad: setup ## align Whisper with MiniLM on the small corpus, and test it
	$(PIP_INSTALL) --editable '.[pad]'
	cd recipes/LibriSpeech/PAD && ../../../$(BIN)/python train.py \
		hparams/bundled.yaml
	cd recipes/LibriSpeech/PAD && ../../../$(BIN)/python typed_commands.py \
		hparams/typed_commands.yaml --alignment=results/pad_bundled/1234

two-stage: setup ## all stages of two-stage distillation on the small corpus
	cd recipes/fluent-speech-commands/two_stage && ../../../$(BIN)/python \
		train.py hparams/bundled.yaml

cif: setup ## train a CIF recogniser under MiniLM on the small corpus
	cd recipes/LibriSpeech/CIF-HKD && ../../../$(BIN)/python train.py \
		hparams/bundled.yaml

tables: setup ## run all experiments of a corpus: make tables DATA=...
	$(BIN)/python experiments.py $(MATRICES) --data_folder="$(DATA)"

report: setup ## write results/report.html from results/*.csv
	$(BIN)/python experiments.py experiments/*.yaml --tables --html

package: setup ## make a model folder: make package RUN=results/... OUT=...
	$(BIN)/slu-kd package "$(RUN)" "$(OUT)"

test: setup ## run the docstring examples and the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: setup ## check style, YAML files and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint .
	$(BIN)/codespell

clean: ## remove caches and build files; .venv and results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -exec rm -rf {} +
