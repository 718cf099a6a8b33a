#!/bin/sh
# From a table of recordings to an answer.
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/examples/sounds}
dimml() { "$PYTHON" -m dimml "$@"; }

"$PYTHON" examples/sounds/data.py "$OUT/data"
dimml init "$OUT/data/sounds.csv" "$OUT/sounds.yaml" --overwrite
dimml check "$OUT/sounds.yaml"
rm -rf "$OUT/run"
dimml train "$OUT/sounds.yaml" --out "$OUT/run" --set training.epochs=10 --set training.warm_up=2
dimml export "$OUT/run" "$OUT/bundle"
dimml evaluate "$OUT/bundle" "$OUT/data/sounds.csv"
dimml predict "$OUT/bundle" --audio "$OUT/data/2.wav"
