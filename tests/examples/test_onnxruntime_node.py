"""A prediction in Node from the graphs of a bundle alone, compared with Python's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tokenizers

from dimml import Predictor
from dimml.bundle import MANIFEST
from dimml.machine import SOURCE_ROOT
from dimml.samples import AudioArray

FOLDER = SOURCE_ROOT / "examples/onnxruntime-node"
RATE, SIDE = 16_000, 32
WORDS = "seven one two"

if not shutil.which("node"):
    pytest.skip("needs Node, which is not installed", allow_module_level=True)
if not (FOLDER / "node_modules/onnxruntime-node").is_dir():
    pytest.skip(f"needs `npm ci --ignore-scripts` in {FOLDER}", allow_module_level=True)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy a bundle and write all settings of its preprocessing, as `dimml export` does."""
    folder = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("node") / "bundle")
    document = json.loads((folder / MANIFEST).read_text())
    for name, kind in Predictor.load(folder, "cpu").kinds.items():
        document["modalities"][name]["preprocessing"] = kind.config.model_dump(mode="json")
    document["conformal"] = {"coverage": 0.9, "min_probabilities": {"image+text": 0.2}}
    (folder / MANIFEST).write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def samples() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one sample as Python takes it, and as the program takes it."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE) + random.normal(0, 0.1, RATE)
    sound = (0.3 * tone).astype(np.float32)
    python = {"audio": AudioArray(sound, RATE), "image": PIL.Image.fromarray(pixels), "text": WORDS}
    return python, {"audio": sound.tolist(), "image": pixels.ravel().tolist()}


def run_node(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["node", str(FOLDER / "predict.mjs"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("names", [("audio", "image", "text"), ("image", "text"), ("audio",)])
def test_node_predicts_as_python_from_the_graphs_alone(
    bundle: Path,
    samples: tuple[dict[str, Any], dict[str, Any]],
    tmp_path: Path,
    names: tuple[str, ...],
) -> None:
    python, raw = samples
    tokenizer = tokenizers.Tokenizer.from_file(str(bundle / "text.tokenizer.json"))
    raw = {**raw, "text": tokenizer.encode(WORDS).ids}
    file = tmp_path / "sample.json"
    file.write_text(json.dumps({name: raw[name] for name in names}))
    done = run_node(bundle, file)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    expected = Predictor.load(bundle, "cpu").predict({name: python[name] for name in names})
    assert answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-4)
    assert answer["prediction_set"] == list(expected.prediction_set)
    weights = {name: output.weight for name, output in expected.modalities.items()}
    assert answer["weights"] == pytest.approx(weights, abs=1e-4)


def test_unknown_modality_is_rejected_in_node(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "sample.json"
    file.write_text('{"video": []}')
    done = run_node(bundle, file)
    assert done.returncode != 0
    assert "expected any of audio, image, text, got video" in done.stderr
