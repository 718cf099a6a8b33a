"""Write recordings of four kinds and their table: python data.py FOLDER."""

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
ROWS = 240


def recording(label: str, random: np.random.Generator) -> np.ndarray:
    """Return half a second of a sound with noise."""
    time = np.arange(RATE // 2) / RATE
    pitch = random.uniform(0.8, 1.2)
    if label == "low":
        sound = np.sin(2 * np.pi * 300 * pitch * time)
    elif label == "high":
        sound = np.sin(2 * np.pi * 1800 * pitch * time)
    elif label == "rising":
        sound = np.sin(2 * np.pi * (300 + 1500 * time) * pitch * time)
    else:
        sound = random.normal(0, 1, len(time)) * (np.sin(2 * np.pi * 8 * pitch * time) > 0.7)
    return 0.3 * sound + random.normal(0, 0.1, len(time))


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(0)
with (folder / "sounds.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["id", "label", "audio"])
    for number in range(ROWS):
        label = ("low", "high", "rising", "burst")[number % 4]
        soundfile.write(folder / f"{number}.wav", recording(label, random), RATE)
        table.writerow([number, label, f"{number}.wav"])
