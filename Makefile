# make study: a whole scaling study on this machine. make test: what CI runs.
# make coverage: the tests with the lines that they run, at least 85 %; up to a third slower.
# make tune: a whole fine-tuning study on this machine (docs/finetuning.md).
# make gpu: is the installation on a GPU right, and how fast is it (docs/gpu.md)?
# make constraints: constraints.txt anew, from a fresh environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --disable-pip-version-check -q -c constraints.txt
PIP := $(BIN)/python $(INSTALL)
FRESH := $(VENV)-fresh

.PHONY: study tune gpu test coverage venv lint types constraints clean

study: venv
	$(BIN)/python launch/study.py configs/study/quickstart.yaml

tune: $(VENV)/.installed-tune
	$(BIN)/python launch/study.py configs/finetune/quick.yaml

# What is installed is measured as it is: PYTHON=... is the interpreter, TOKENS and MINUTES are optional.
gpu:
	PYTHONPATH=$(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) launch/benchmark.py gpu \
	  --minutes $(or $(MINUTES),8) --out $(or $(OUT),gpu-results) $(if $(TOKENS),--tokens $(TOKENS))

venv: $(VENV)/.installed

test: $(VENV)/.installed-test lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

coverage: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term --cov-fail-under=85

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/basedpyright --pythonpath $(BIN)/python

constraints:
	rm -rf $(FRESH)
	$(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/python $(INSTALL) setuptools
	$(FRESH)/bin/python $(INSTALL) --no-build-isolation -e '.[test]'
	{ grep '^#' constraints.txt; $(FRESH)/bin/python -m pip freeze --all --exclude-editable \
	  --exclude pip | sed 's/+.*//' | grep -Eiv '^(nvidia|cuda|triton)' | sort -f; } > $(FRESH)/new
	mv $(FRESH)/new constraints.txt
	rm -rf $(FRESH)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) setuptools
	$(PIP) --no-build-isolation -e .
	touch $@

$(VENV)/.installed-tune: $(VENV)/.installed
	$(PIP) --no-build-isolation -e '.[finetune,metrics]'
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --no-build-isolation -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(FRESH) build *.egg-info .pytest_cache .ruff_cache .coverage*
