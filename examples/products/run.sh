#!/bin/sh
# Train on pictures and titles with frozen pretrained encoders, and ask about a product.
set -eu
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/examples/products}
PHOTO_MODEL=${PHOTO_MODEL:-openai/clip-vit-base-patch32}
TITLE_MODEL=${TITLE_MODEL:-sentence-transformers/all-MiniLM-L6-v2}
dimml() { "$PYTHON" -m dimml "$@"; }

"$PYTHON" examples/products/data.py "$OUT/data"
rm -rf "$OUT/run"
dimml train examples/products/products.yaml --out "$OUT/run" \
  --set "data.table=$OUT/data/products.csv" \
  --set "modalities.photo.encoder=$PHOTO_MODEL" \
  --set "modalities.title.encoder=$TITLE_MODEL"
dimml export "$OUT/run" "$OUT/bundle"
dimml evaluate "$OUT/bundle" "$OUT/data/products.csv"
dimml predict "$OUT/bundle" --photo "$OUT/data/1.png" --title "reading light" --explain
dimml predict "$OUT/bundle" --photo "$OUT/data/1.png"
dimml predict "$OUT/bundle" --title "reading light"
