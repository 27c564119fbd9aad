# make demo        everything from nothing: set-up, phantom corpus, training, evaluation, pictures
# make test        set-up and the tests
# make test-slow   the tests that take minutes
# make check       formatting, lint, types, dependencies
# make audit       asks an advisory service about the locked packages; needs a network
# make wheelhouse  wheels of all that is locked, for machines without a network (docs/closed-networks.md)
# make clean       remove what the others made (keeps the virtual environment and the wheelhouse)
# VENV=0 uses the Python environment that is active instead of .venv.
# WHEELHOUSE=wheelhouse sets up from that folder alone.

PYTHON ?= python3
VENV ?= 1
export DO_NOT_TRACK = 1
export MLFLOW_DISABLE_TELEMETRY = true
export HF_HUB_OFFLINE ?= 1

WHEELHOUSE ?=
ifneq ($(WHEELHOUSE),)
export PIP_NO_INDEX = 1
export PIP_FIND_LINKS = $(abspath $(WHEELHOUSE))
endif

ifeq ($(VENV),0)
BIN :=
SETUP :=
else
BIN := $(CURDIR)/.venv/bin/
SETUP := .venv/complete
endif
# The deepspeed launcher starts ranks with the python it finds first.
export PATH := $(if $(BIN),$(BIN):)$(PATH)

GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c GPU)
RANKS ?= $(shell if [ $(GPUS) -eq 0 ] || [ $(GPUS) -gt 2 ]; then echo 2; else echo $(GPUS); fi)
ifeq ($(GPUS),0)
export DS_ACCELERATOR = cpu
export OMP_NUM_THREADS ?= 1
endif

.PHONY: demo test test-slow check audit wheelhouse clean

# Where train/corpora.py puts the phantoms of train/configs/demo.yaml.
DEMO_CORPUS = runs/phantoms-8000-what-which_organ-where

demo: $(SETUP)
	$(BIN)deepspeed --num_accelerators $(RANKS) launch/train.py --deepspeed ds_configs/zero3.json --resume=auto
	$(BIN)python launch/evaluate.py --checkpoint runs/demo --suites vqa,grounding --data $(DEMO_CORPUS) --limit 600 --batch-size 64 --overwrite --out runs/demo/eval
	$(BIN)python launch/summary.py runs/demo

test: $(SETUP)
	$(BIN)python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile

test-slow: $(SETUP)
	$(BIN)python -m pytest -m "slow"

check: $(SETUP)
	$(BIN)ruff format --check .
	$(BIN)ruff check .
	$(BIN)mypy
	$(BIN)python -m pytest -q tests/unit/test_security_dependencies.py

# pip-audit lives in a folder of its own: what audits is not among what is audited. Only a whole answer leaves found.json.
audit: requirements.lock
	@test -x .audit/bin/pip-audit || ($(PYTHON) -m venv .audit && .audit/bin/python -m pip install --quiet pip-audit) \
	    || (rm -rf .audit; echo "NOT AUDITED: pip-audit cannot be fetched; run make audit where there is a network" >&2; exit 1)
	@rm -f .audit/found.json; \
	    .audit/bin/pip-audit --vulnerability-service osv --no-deps --disable-pip --requirement requirements.lock \
	    --format json --output .audit/found.json 2> .audit/log.txt; status=$$?; \
	    test -s .audit/found.json || { echo "NOT AUDITED: the advisory service gave no answer (.audit/log.txt)" >&2; exit 1; }; \
	    echo "$$(tail -n 1 .audit/log.txt): .audit/found.json"; exit $$status

# Built with PYTHON for its version and this kind of machine; sdists become wheels here, so that nothing is compiled there.
wheelhouse: requirements.lock
	rm -rf wheelhouse.part
	$(PYTHON) -m pip wheel --quiet --wheel-dir wheelhouse.part --requirement requirements.lock
	$(PYTHON) -m pip wheel --quiet --wheel-dir wheelhouse.part --no-deps pip 'setuptools>=77'
	cd wheelhouse.part && sha256sum *.whl > SHA256SUMS
	rm -rf wheelhouse && mv wheelhouse.part wheelhouse

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

.venv/complete: requirements.lock setup.py
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(if $(WHEELHOUSE),cd $(WHEELHOUSE) && sha256sum *.whl | diff SHA256SUMS -)
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -r requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps -e .
	touch $@
