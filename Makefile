PYTHON ?= python3
BUNDLE ?= runs/digits/bundle
PORT ?= 3000
BIN := .venv/bin

.PHONY: install check test serve clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,serve,dev]'
	touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

serve: install $(BUNDLE)/evaluation.json
	$(BIN)/dimml serve $(BUNDLE) --port $(PORT)

runs/digits/bundle/evaluation.json: | install
	test -d runs/digits/data || $(BIN)/dimml data digits runs/digits/data
	test -f runs/digits/run/run.json || $(BIN)/dimml train train/recipes/digits.yaml
	$(BIN)/dimml export runs/digits/run runs/digits/bundle
	$(BIN)/dimml evaluate runs/digits/bundle runs/digits/data/manifest.parquet

clean:
	rm -rf .venv
