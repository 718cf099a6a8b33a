PYTHON ?= python3
# The build of PyTorch: auto, cpu, cuda, or a folder of download.pytorch.org/whl such as cu128.
TORCH ?= auto
DIGITS := runs/digits/bundle
BUNDLE ?= $(DIGITS)
PORT ?= 3000
BIN := .venv/bin

SERVE_EXTRAS := train serve ui demo
ALL_EXTRAS := $(SERVE_EXTRAS) ray remote media dev
INSTALLED := .venv/.installed
SERVE_INSTALLED := .venv/.installed-serve

.PHONY: install check test pytest slow fuzz serve demo clean

# The installer checks a Python and a build of PyTorch that are asked for, even if everything is
# installed.
ifneq ($(origin PYTHON),file)
.PHONY: $(BIN)/python
endif
ifneq ($(origin TORCH),file)
.PHONY: $(INSTALLED) $(SERVE_INSTALLED)
endif

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt install.py | $(BIN)/python
	$(BIN)/python install.py --torch $(TORCH) $(ALL_EXTRAS)
	touch $@ $(SERVE_INSTALLED)

$(SERVE_INSTALLED): pyproject.toml constraints.txt install.py | $(BIN)/python
	$(BIN)/python install.py --torch $(TORCH) $(SERVE_EXTRAS)
	touch $@

$(BIN)/python:
	$(PYTHON) install.py --environment .venv

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The checks use one core, so tests run beside them.
test: install
	$(MAKE) --jobs=2 check pytest

# Tests call `make` themselves, which must not inherit the options of this one.
pytest: install
	unset MAKEFLAGS MFLAGS MAKELEVEL; OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# Runs the tests with the mark `slow`, which `make test` skips.
slow: install
	DIMML_SLOW_TESTS=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow

# Runs the fuzz tests with 20 times their examples, and sends 10,000 damaged uploads to a server.
fuzz: install $(DIGITS)/evaluation.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.robustness.fuzz --bundle "$(BUNDLE)"

# The digits bundle is built if it does not exist. Any other BUNDLE is served as it is.
serve: $(SERVE_INSTALLED) $(if $(filter $(DIGITS),$(BUNDLE)),$(DIGITS)/evaluation.json)
	$(BIN)/dimml serve "$(BUNDLE)" --port $(PORT)

demo: $(SERVE_INSTALLED) $(DIGITS)/evaluation.json
	$(BIN)/python -m serving.demo $(DIGITS)

$(DIGITS)/evaluation.json: | $(SERVE_INSTALLED)
	test -d runs/digits/data || $(BIN)/dimml data digits runs/digits/data
	test -f runs/digits/run/run.json || $(BIN)/dimml train train/recipes/digits.yaml $(if $(wildcard runs/digits/run/last.ckpt),--resume)
	$(BIN)/dimml export runs/digits/run $(DIGITS) --examples 6
	$(BIN)/dimml evaluate $(DIGITS) runs/digits/data/manifest.parquet

clean:
	rm -rf .venv
