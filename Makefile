# make run    sets up a virtual environment and fine-tunes the shipped base with every method of the
#             equal-budget table: 16 training runs, one table
# make test   sets up what is missing and runs the tests
# make tables resumes the committed reference run, which has nothing left to do, and writes its tables
#             and the page of all of them
# make lab    opens JupyterLab on notebooks/, on this machine only
# make app    serves the rank-triple picker (notebooks/07) as a page, on this machine only
# make demo   makes the shipped world, base and tasks again
# make test-browser   runs the tests that drive JupyterLab in Chromium (Debian: apt install chromium)
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --no-compile -qq
export PYTHONUNBUFFERED := 1

# Without this header Voila's page asks a public server for icons.
NO_FOREIGN_STYLES := {'headers': {'Content-Security-Policy': \"style-src 'self' 'unsafe-inline'\"}}

.PHONY: run tables test test-browser lab app demo setup clean
.DELETE_ON_ERROR:

run: $(VENV)/.kit
	@$(PY) -m bslora_kit.grid papermill_runs/grids/similar_budget.yaml --profile demo --seeds 1 --jobs $(JOBS) --quick --out papermill_runs/quick

tables: $(VENV)/.kit
	@$(PY) -m bslora_kit.grid.reference --jobs $(JOBS)

# One thread a process: the workers and the kernels they start share the cores.
test: $(VENV)/.test
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist loadfile tests

lab: $(VENV)/.kit
	@$(PY) -m jupyter lab --ip 127.0.0.1 --notebook-dir notebooks

app: $(VENV)/.app
	@$(PY) -m voila notebooks/07_rank_budgets.ipynb --no-browser --Voila.ip=127.0.0.1 \
	  --Voila.tornado_settings="$(NO_FOREIGN_STYLES)"

test-browser: $(VENV)/.test
	@command -v chromium >/dev/null || { echo "no chromium on this machine; Debian: apt install chromium"; exit 1; }
	@$(PY) -m pytest -q tests/browser

demo: $(VENV)/.kit
	@$(PY) -m bslora_kit.demo

setup: $(VENV)/.kit

clean:
	rm -rf $(VENV)

# Each stamp is written after its step has succeeded, so a half install is done again.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bslora_kit needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true); name another with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module; install it (Debian: apt install python3-venv) or name another Python with: make PYTHON=... $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV): torch first, then the rest (2 to 4 minutes, once)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.venv requirements.txt
	@$(PIP) "$$(grep '^torch==' requirements.txt)"
	@touch $@

$(VENV)/.kit: $(VENV)/.torch requirements.txt pyproject.toml
	@echo "torch is there; transformers, peft, lm-eval, JupyterLab and the rest follow"
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.app: $(VENV)/.kit
	@$(PIP) -e '.[app]'
	@touch $@

$(VENV)/.test: $(VENV)/.kit
	@$(PIP) -e '.[test]'
	@touch $@
