#!/bin/sh
# Score a table of recordings in a storage: a local folder here, s3://BUCKET/PATH and others elsewhere.
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
BUNDLE=${BUNDLE:-runs/examples/sounds/bundle}
OUT=${OUT:-runs/examples/storage}
mkdir -p "$OUT"
STORAGE=${STORAGE:-file://$(cd "$OUT" && pwd)/bucket}
dimml() { "$PYTHON" -m dimml "$@"; }

"$PYTHON" examples/sounds/data.py "$OUT/data"
"$PYTHON" examples/storage/upload.py "$OUT/data" "$STORAGE"
dimml score "$BUNDLE" "$STORAGE/sounds.csv" "$OUT/scores.csv" \
  --allow-scheme "${STORAGE%%://*}" --keep truth=label --overwrite
head -n 4 "$OUT/scores.csv"
