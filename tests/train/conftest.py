from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

SIGHTINGS_RECIPE = """
name: sightings
data: {data}
feature_dim: 16
modalities:
  front: {{kind: image, preprocessing: {{size: [32, 32]}}}}
  rear: {{kind: image, preprocessing: {{size: [32, 32]}}}}
  note: text
training: {{epochs: 3, warm_up: 1, batch_size: 16}}
"""

CALLS_RECIPE = """
name: calls
data: {data}
feature_dim: 16
modalities:
  call: {{kind: audio, preprocessing: {{sample_rate: 8000, seconds: null, n_fft: 256}}}}
  note: text
training: {{epochs: 3, warm_up: 1, batch_size: 8}}
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recipe and data: photos of red or blue things from two sides, a note, empty cells."""
    folder = tmp_path_factory.mktemp("sightings")
    random = np.random.default_rng(0)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "front", "rear", "note"])
        for number in range(96):
            split = ("train", "train", "validation", "test")[number % 4]
            label = ("red", "blue")[number // 4 % 2]
            for side in ("front", "rear"):
                pixels = random.integers(0, 100, (32, 32, 3), np.uint8)
                pixels[..., 0 if label == "red" else 2] += 150
                PIL.Image.fromarray(pixels).save(folder / f"{side}{number}.png")
            cells = [f"front{number}.png", f"rear{number}.png", f"it was {label}"]
            if number % 5 == 0:
                cells[number % 3] = ""
            writer.writerow([number, split, label, *cells])
    path = folder / "recipe.yaml"
    path.write_text(SIGHTINGS_RECIPE.format(data=folder / "data.csv"))
    return path


@pytest.fixture(scope="session")
def calls_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recipe and data: high or low calls of many lengths, some with a note."""
    folder = tmp_path_factory.mktemp("calls")
    random = np.random.default_rng(1)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "call", "note"])
        for number in range(48):
            label = ("high", "low")[number % 2]
            time = np.arange(int(random.integers(3000, 9000))) / 8000
            tone = np.sin(2 * np.pi * (1500 if label == "high" else 300) * time)
            soundfile.write(folder / f"{number}.wav", 0.3 * tone, 8000)
            note = label if number % 3 else ""
            split = ("train", "train", "validation", "test")[number // 2 % 4]
            writer.writerow([number, split, label, f"{number}.wav", note])
    path = folder / "recipe.yaml"
    path.write_text(CALLS_RECIPE.format(data=folder / "data.csv"))
    return path
