"""The panel's data sets: the digits, avMNIST, pairs of digits, and changed versions of them.

The sets `avmnist_5`, `avmnist_10` and `avmnist_20` keep the audio of 5, 10 and 20 % of the training
rows, and no more. That is what the percentages mean where they were published, in SMIL (Ma et al.,
AAAI 2021, arXiv 2103.05677): the share of the training recordings that are available beside all
pictures. The authors' code calls 150 of 1,500 recordings "available" at 10 %. Here, too, all
validation and test rows have both modalities.

All sets are smaller than their sources, so that a training takes some 20 s on one core.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from benchmarks.accuracy.panel_data import (
    DIGITS,
    first_rows,
    half_of_recordings,
    pairs,
    shuffled_column,
)
from benchmarks.accuracy.tables import Rows, few_labels, few_recordings, read_rows, write_table
from benchmarks.options import DIGITS as DIGITS_FOLDER
from benchmarks.pretrained.avmnist import SMALL
from dimml.machine import SOURCE_ROOT
from train.datasets import avmnist
from train.datasets.digits import number_words
from train.datasets.output import MANIFEST, SPLITS
from train.recipe import Recipe, load_recipe

WORK = SOURCE_ROOT / "runs" / "panel"
RECIPES = SOURCE_ROOT / "train" / "recipes"
DIGIT_ROWS = {"train": 1200, "validation": 400, "test": 500}
PAIRS_PER_DIGIT = {"train": 270, "validation": 60, "test": 75}
AUDIO_MODEL, IMAGE_MODEL = "whisper-base-encoder", "efficientnet-lite0"

Maker = Callable[[str, Rows, np.random.Generator], Rows]
"""Makes the rows of a split of the set, from the split's name and the rows of the source."""


@dataclass(frozen=True)
class Sources:
    """The folders of what the repository does not contain; None where no folder was given.

    Attributes:
        digits: The digits data set, as `dimml data digits` writes it.
        avmnist: The published files of avMNIST.
        models: The folders of the pretrained models.
    """

    digits: Path = DIGITS_FOLDER / "data"
    avmnist: Path | None = None
    models: Path | None = None

    @classmethod
    def from_options(cls, avmnist_root: Path | None, models: Path | None) -> Sources:
        """Return the folders of the options, or those of the variables `DIMML_TEST_*`."""
        data, folder = (os.environ.get(f"DIMML_TEST_{name}") for name in ("DATA", "MODELS"))
        root = avmnist_root or (Path(data) / "avmnist" if data else None)
        models = models or (Path(folder) if folder else None)
        return cls(avmnist=root and root.absolute(), models=models and models.absolute())


@dataclass(frozen=True)
class PanelSet:
    """A data set of the panel.

    Attributes:
        title: Description of the data.
        make: Makes the rows.
        recipe: A recipe in `RECIPES`.
        settings: Settings in addition to those of the recipe.
        modalities: The modalities of the recipe that take part; empty for all.
        models: Modality to the folder of its frozen encoder in `Sources.models`.
        from_avmnist: Whether the rows are made from avMNIST, otherwise from the digits.
        by_speaker: Whether each seed is a data set of its own, with other speakers in each split.
    """

    title: str
    make: Maker
    recipe: str
    settings: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    from_avmnist: bool = False
    by_speaker: bool = False

    def problem(self, sources: Sources) -> str | None:
        """Return what is missing to train on this set, and how to get it; None if nothing is."""
        if self.from_avmnist:
            root, option = sources.avmnist, "--avmnist ROOT or DIMML_TEST_DATA/avmnist"
            files = (avmnist.RECORDINGS, avmnist.PICTURES, avmnist.PICTURE_LABELS)
            if root is None:
                return f"the published files of avMNIST are missing: name their folder, {option}"
            if lost := [root / name for name in files if not (root / name).exists()]:
                return f"{lost[0]} is missing: name the folder that has it, {option}"
        elif not (sources.digits / MANIFEST).exists():
            return f"the digits are missing: create them, dimml data digits {sources.digits}"
        if self.models and sources.models is None:
            return (
                f"the models {', '.join(self.models.values())} are missing: name their folder, "
                "--models FOLDER or DIMML_TEST_MODELS"
            )
        for name in self.models.values():
            if sources.models and not (sources.models / name).is_dir():
                return f"the model {sources.models / name} is missing: see docs/encoders.md"
        return None

    def data_seeds(self, seeds: int) -> range:
        """Return the seeds of the data: all of them, or one that all trainings share."""
        return range(seeds if self.by_speaker else 1)


def _digits(split: str, rows: Rows, generator: np.random.Generator) -> Rows:
    return first_rows(rows, DIGIT_ROWS[split])


def _digits_few(split: str, rows: Rows, generator: np.random.Generator) -> Rows:
    kept = first_rows(rows, DIGIT_ROWS[split])
    return few_labels(kept, generator) if split == "train" else kept


def _noise(split: str, rows: Rows, generator: np.random.Generator) -> Rows:
    return shuffled_column(first_rows(rows, DIGIT_ROWS[split]), "audio", generator)


def _avmnist(split: str, rows: Rows, generator: np.random.Generator, share: float = 1.0) -> Rows:
    kept = half_of_recordings(rows)
    return few_recordings(kept, generator, share) if split == "train" and share < 1 else kept


def _pairs(split: str, rows: Rows, generator: np.random.Generator) -> Rows:
    # Words without typing errors, in one language, and four digits: from scratch, and from matches
    # alone, small encoders do not learn harder pairs in the time that a set may take.
    words = number_words("en")
    plain = [{**row, "text": words[int(row["label"])]} for row in rows]
    return pairs(plain, ("image", "text"), PAIRS_PER_DIGIT[split], digits=DIGITS[:4])


def _pairs_frozen(split: str, rows: Rows, generator: np.random.Generator) -> Rows:
    repeats = 2 if split == "train" else 1
    recordings = half_of_recordings(rows)
    return pairs(recordings, ("audio", "image"), len(recordings) // 10, repeats)


_AVMNIST = partial(
    PanelSet,
    recipe="avmnist.yaml",
    settings=(*SMALL, "training.epochs=12", "training.warm_up=4", "training.batch_size=32"),
    from_avmnist=True,
    by_speaker=True,
)
_FROZEN = partial(
    PanelSet,
    recipe="avmnist.yaml",
    models={"audio": AUDIO_MODEL, "image": IMAGE_MODEL},
    from_avmnist=True,
)
_SPEAKERS = "spoken and written digits, speakers of the test split unheard in training"

# The longest come first, so that the cores end at about the same time.
SETS: dict[str, PanelSet] = {
    "digits": PanelSet(
        "Digits handwritten, spoken and spelled out (the digits demo)",
        _digits,
        "digits.yaml",
        ("training.epochs=10", "training.warm_up=4", "training.batch_size=32"),
    ),
    "digits_few": PanelSet(
        "The digits, with one label in ten",
        _digits_few,
        "digits.yaml",
        ("training.epochs=5", "training.warm_up=2", "training.batch_size=32"),
    ),
    "noise": PanelSet(
        "The digits, whose audio is of a random other row and tells nothing",
        _noise,
        "digits.yaml",
        ("training.epochs=8", "training.warm_up=3", "training.batch_size=32"),
    ),
    "avmnist_frozen": _FROZEN(
        f"avMNIST: {_SPEAKERS}; frozen Whisper base and EfficientNet-Lite0",
        _avmnist,
        by_speaker=True,
    ),
    "pairs": PanelSet(
        "Do picture and number word name the same digit, 0 to 3? Neither alone tells",
        _pairs,
        "digits.yaml",
        (
            *("training.epochs=12", "training.warm_up=4", "training.batch_size=32"),
            *("training.learning_rate=1.0e-3", "modalities.image.augment=0"),
            *("modalities.image.preprocessing.size=[32, 32]", "modalities.text.augment=0"),
        ),
        modalities=("image", "text"),
    ),
    "avmnist": _AVMNIST(f"avMNIST: {_SPEAKERS}; small encoders", _avmnist),
    "avmnist_20": _AVMNIST("avMNIST, audio in 20 % of training rows", partial(_avmnist, share=0.2)),
    "avmnist_10": _AVMNIST("avMNIST, audio in 10 % of training rows", partial(_avmnist, share=0.1)),
    "avmnist_5": _AVMNIST("avMNIST, audio in 5 % of training rows", partial(_avmnist, share=0.05)),
    "pairs_frozen": _FROZEN(
        "Are the spoken and the written digit of avMNIST the same? Neither alone tells; frozen "
        "Whisper base and EfficientNet-Lite0",
        _pairs_frozen,
        settings=("training.epochs=12", "training.warm_up=4"),
    ),
}


def table_path(name: str, seed: int) -> Path:
    """Return the path of the table of a set."""
    return WORK / name / f"data-{seed}.parquet"


def write_tables(name: str, sources: Sources, seeds: int) -> None:
    """Write the tables of a set that do not exist yet.

    Raises:
        UsageError: If a file of the source is missing or damaged.
    """
    for seed in SETS[name].data_seeds(seeds):
        path = table_path(name, seed)
        if path.exists():
            continue
        folder = _avmnist_folder(sources, seed) if SETS[name].from_avmnist else sources.digits
        rows: Rows = []
        for number, split in enumerate(SPLITS):
            generator = np.random.default_rng([seed, number])
            rows += SETS[name].make(split, read_rows(folder / MANIFEST, split), generator)
        write_table(path, rows, folder)


def _avmnist_folder(sources: Sources, seed: int) -> Path:
    """Return the folder of avMNIST with the speakers of a seed, written at its first use."""
    folder = WORK / "data" / f"avmnist-{seed}"
    if not folder.exists() and sources.avmnist:
        folder.parent.mkdir(parents=True, exist_ok=True)
        avmnist.write(sources.avmnist, folder, seed=seed)
    return folder


def load_set(name: str, sources: Sources, seed: int) -> Recipe:
    """Return the recipe of a set for the data of a seed."""
    one, path = SETS[name], RECIPES / SETS[name].recipe
    settings = [f"name={name}", f"data={json.dumps(str(table_path(name, seed)))}"]
    if one.modalities:
        parts = yaml.safe_load(path.read_text())["modalities"]
        settings.append(f"modalities={json.dumps({part: parts[part] for part in one.modalities})}")
    for modality, model in one.models.items():
        settings.append(f"modalities.{modality}.encoder={json.dumps(f'{sources.models}/{model}')}")
    return load_recipe(path, [*settings, *one.settings])
