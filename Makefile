# make paper_figures | ten_minutes | durable | continue | published_figures | report | test | test-pythons | preview | trained | check | clean
# Needs Python 3.11 or later with its venv module, make and git; PYTHON=python3.12 make ... chooses another Python.
# TORCH=2.11.0 make ... takes that torch, and everything else as it is pinned.

PYTHON ?= python3
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
INSTALL := python -m pip --disable-pip-version-check install --quiet --no-compile
PIP := $(VENV)/bin/$(INSTALL)
HASHED := $(PIP) --require-hashes

# Another version than the pinned one. What .venv was made with is in the file torch there.
TORCH ?=
MADE_WITH := $(shell cat $(VENV)/torch 2>/dev/null)

# Not everything is compiled at once, only what is imported, and that is kept whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: paper_figures ten_minutes durable continue published_figures report test test-pythons preview trained check clean another-torch

paper_figures: $(VENV)/installed
	$(RUN) snakemake --cores 1 paper_figures

# A smaller study, in results/local-ten-minutes: configs/ten_minutes.yaml says what it measures and how long that takes.
ten_minutes: $(VENV)/installed
	@echo "expected: 6 minutes on one H200, 2 as a functional run on two CPU cores"
	@began=$$(date +%s); $(RUN) snakemake --cores 1 verdicts --configfile configs/ten_minutes.yaml && \
		echo "taken: $$((($$(date +%s) - began + 30) / 60)) minutes"

# What survives a kill, and sessions beyond host memory, in results/local-durable: configs/durable.yaml says what that takes.
durable: $(VENV)/installed
	$(RUN) snakemake --cores 1 durable --configfile configs/durable.yaml

# Before the next piece of a run, on a machine that comes bare: FROM=a copy of results/local of the former piece.
# Of another study also CONFIG=configs/llama-2-70b.yaml and NAME=local-70b, its run.
continue: $(VENV)/installed
	@[ -n "$(FROM)" ] || { echo "error: FROM=FOLDER make continue, with a copy of results/local of the former piece"; exit 1; }
	$(RUN) snakemake --cores 1 studies $(if $(CONFIG),--configfile $(CONFIG))
	$(RUN) python -m evaluation.records.carry --from "$(FROM)" --run $(or $(NAME),local)

# The authors' set alone, from their records: measures nothing.
published_figures: $(VENV)/installed
	$(RUN) snakemake --cores all published_figures

# All tables and figures in one page, report.html. Looks first whether they are there; draws and measures nothing.
# RUNS=one run or several, another study's or a published one; by default this machine's and the authors'.
report: $(VENV)/installed
	@$(RUN) python -m evaluation.paper.report $(if $(RUNS),--run $(RUNS))

# One thread of torch for each process: three with two each would wait for each other's on two cores.
test: $(VENV)/installed-dev
	$(RUN) OMP_NUM_THREADS=1 python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The system's tests on every Python from 3.11 on that is there, or on those that PYTHONS names, each in its own .venv.
PYTHONS ?= $(shell $(PYTHON) tests/pythons.py)
NEWER = $$(find envs -name '*.txt' -newer $$venv/installed 2>&1)

test-pythons:
	@failed=; tested=; for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print(*sys.version_info[:2], sep=".")') || \
			{ echo "error: $$python does not start"; failed="$$failed $$python"; continue; }; \
		venv=$(VENV)-pythons/$$version; tested="$$tested $$version"; \
		if [ -n "$(NEWER)" ]; then \
			$$python -m venv --clear $$venv && \
			$$venv/bin/$(INSTALL) --require-hashes -r envs/requirements-dev.txt && \
			$$venv/bin/$(INSTALL) -r envs/torch.txt && \
			$$venv/bin/$(INSTALL) --no-deps --no-build-isolation --editable . && touch $$venv/installed || \
				{ echo "error: Python $$version: not every version pinned in envs/ can be installed"; \
				failed="$$failed $$version"; continue; }; \
		fi; \
		$$venv/bin/python -m pytest tests/djinn || failed="$$failed $$version"; \
	done; \
	[ -n "$$tested" ] || { echo "error: no Python to test on"; exit 1; }; \
	[ -z "$$failed" ] || { echo "error: failed on:$$failed"; exit 1; }; \
	echo "passed on:$$tested"

# Needs TeX, as nothing else does: see evaluation.paper.preview.
preview: $(VENV)/installed
	$(RUN) python -m evaluation.paper.preview --out paper_figures/local/preview.pdf

# A checkpoint of a trained model in results/trained/smollm2, for model.path.
trained: $(VENV)/installed-trained
	$(RUN) snakemake --cores 1 trained

check: $(VENV)/installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) snakemake --lint
	$(RUN) snakefmt --check Snakefile rules

# Made anew whenever the pins or TORCH change.
ifneq ($(TORCH),$(MADE_WITH))
$(VENV)/installed: another-torch
endif

$(VENV)/installed: envs/requirements.txt envs/torch.txt pyproject.toml
	@[ -z "$$TORCH" ] || printf '%s\n' "$$TORCH" | grep -Eqx '[0-9]+(\.[0-9]+)+((a|b|rc)[0-9]+)?(\+[a-z0-9.]+)?' || \
		{ echo "error: TORCH=$$TORCH is no version of torch; one is TORCH=2.11.0"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or later is needed; $$($(PYTHON) --version 2>&1) found. Choose another: PYTHON=python3.12 make"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(HASHED) -r envs/requirements.txt
	$(PIP) $(if $(TORCH),torch==$(TORCH),-r envs/torch.txt)
	$(PIP) --no-deps --no-build-isolation --editable .
	@[ -z "$$TORCH" ] || echo "$$TORCH" >$(VENV)/torch
	touch $@

$(VENV)/installed-trained: $(VENV)/installed envs/trained.txt
	$(HASHED) --no-deps -r envs/trained.txt
	touch $@

$(VENV)/installed-slurm: $(VENV)/installed envs/slurm.txt
	$(HASHED) --no-deps -r envs/slurm.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed $(VENV)/installed-trained envs/requirements-dev.txt
	$(HASHED) -r envs/requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-pythons .snakemake .killed-* logs report.html paper_figures/local paper_figures/local-*
	rm -rf results/local results/local-* results/tables results/trained results/*.csv
