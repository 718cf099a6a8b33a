"""CREMA-D: actors who speak a sentence in one of six emotions, as sound and as video.

A clip is named by its actor, sentence, emotion and level, such as 1001_DFA_ANG_XX. The published
split divides the clips of every actor between its train and its test split, so it tests how well a
classifier knows the actors that it was trained on. By default, no actor is in two splits.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from dimml.errors import UsageError
from dimml.modalities import Audio
from dimml.table.cells import split_name
from train.datasets.clips import check_decoder, write_frames
from train.datasets.output import SPLITS, Cell, check_out
from train.datasets.published import (
    PublishedSample,
    Source,
    check_root,
    draw_groups,
    keep_file,
    read_lines,
    write_samples,
)

SOUNDS, VIDEOS = "AudioWAV/", "VideoFlash/"
SUFFIXES = {SOUNDS: ".wav", VIDEOS: ".flv"}
SOURCE = Source(
    name="crema_d",
    published_in="the repository CheyneyComputerScience/CREMA-D on GitHub",
    unit="clips",
    total=7_442,
)
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")

_CLIP_NAME = re.compile(rf"([0-9]{{4}}_[A-Z]{{3}}_(?:{'|'.join(EMOTIONS)})_)(LO|MD|HI|XX?)")
_SOUND = Audio("audio", {})


def write(root: Path, out: Path, *, seed: int = 0, split_csv: Path | None = None) -> Path:
    """Write the data set into a folder, which appears when it is complete.

    Args:
        root: Folder with `AudioWAV` and `VideoFlash`.
        out: Folder to write, which does not exist or is empty.
        seed: Seed of the splits, 0 or more.
        split_csv: A folder with `train.csv` and `test.csv`, whose lines are a clip and its label,
            or a CSV with the columns `name` and `split`. A tenth of the clips of each emotion of
            the train split validate, if no clip is listed for that. None puts each actor into one
            split.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If `out` is not empty, a file or folder is missing, or a list is wrong.
    """
    check_out(out, seed)
    check_decoder(SOURCE.name)
    check_root(root, [SOUNDS, VIDEOS], SOURCE)
    files = {part: _find_clips(root, part) for part in SUFFIXES}
    found = sorted(set().union(*files.values()))
    if not found:
        raise UsageError(
            f"{root / SOUNDS} and {root / VIDEOS} hold no clips; expected names such as "
            f"1001_DFA_ANG_XX.wav and 1001_DFA_ANG_XX.flv, as in {SOURCE.published_in}"
        )
    if split_csv is None:
        splits, notes = split_actors(found, seed), []
    else:
        splits = read_splits(split_csv, seed)
        unlisted = len(set(found) - splits.keys())
        notes = [f"{unlisted:,} clips are not in {split_csv}, and are left out"] if unlisted else []
    samples = [
        PublishedSample(name, splits[name], name.split("_")[2], _cells(root, name, files))
        for name in sorted(splits)
    ]
    return write_samples(samples, out, SOURCE, notes)


def split_actors(clips: Iterable[str], seed: int) -> dict[str, str]:
    """Return the split of each clip, such that no actor is in two splits.

    About a tenth of the actors test, and a tenth of the others validate.

    Raises:
        UsageError: If there are fewer than three actors.
    """
    actors = {name: name.split("_")[0] for name in clips}
    names = sorted(set(actors.values()))
    if len(names) < 3:
        raise UsageError(
            f"the clips are of {len(names)} actors ({', '.join(names)}), but each split needs an "
            "actor of its own; add clips, or list the splits with --split-csv"
        )
    test = {actor for _, actor in draw_groups((("test", name) for name in names), seed)}
    rest = [("validation", name) for name in names if name not in test]
    validation = {actor for _, actor in draw_groups(rest, seed)}
    splits = {actor: "test" if actor in test else "train" for actor in names}
    splits |= dict.fromkeys(validation, "validation")
    return {name: splits[actor] for name, actor in actors.items()}


def read_splits(path: Path, seed: int) -> dict[str, str]:
    """Return the split of each listed clip, see `write` for the lists.

    Raises:
        UsageError: If a list is missing or has another form, or lists a clip twice.
    """
    if path.is_dir():
        listed = [*_read_list(path / "train.csv", "train"), *_read_list(path / "test.csv", "test")]
    else:
        listed = list(_read_table(path))
    splits = dict[str, str]()
    for place, name, split in listed:
        if not (match := _CLIP_NAME.fullmatch(name.removesuffix(".wav").removesuffix(".flv"))):
            raise UsageError(
                f"{place}: expected a clip such as 1001_DFA_ANG_XX, got {name[:100]!r}"
            )
        if (clip := _clip(match)) in splits:
            raise UsageError(f"{place}: the clip {clip} is listed twice; list each clip once")
        splits[clip] = split
    if missing := {"train", "test"} - set(splits.values()):
        raise UsageError(f"{path} lists no clip for the {sorted(missing)[0]} split")
    if "validation" not in splits.values():
        train = ((name.split("_")[2], name) for name, split in splits.items() if split == "train")
        splits |= dict.fromkeys((name for _, name in draw_groups(train, seed)), "validation")
    return splits


def _read_list(path: Path, split: str) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the name and the split of each clip of a list of clips and labels."""
    for number, line in read_lines(path):
        yield f"{path}, line {number}", line.split(",")[0].strip(), split


def _read_table(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the name and the split of each clip of a CSV with these columns."""
    lines = list(read_lines(path))
    rows = csv.DictReader(line for _, line in lines)
    if not {"name", "split"} <= set(rows.fieldnames or ()):
        raise UsageError(
            f"{path} has the columns {', '.join(rows.fieldnames or ())}; expected name and split, "
            "or a folder with train.csv and test.csv"
        )
    for (number, _), row in zip(lines[1:], rows, strict=True):
        place = f"{path}, line {number}"
        split = split_name(row["split"] or "")
        if split not in SPLITS:
            raise UsageError(f"{place}: the split {split!r} is none of {', '.join(SPLITS)}")
        yield place, row["name"].strip(), split


def _find_clips(root: Path, part: str) -> dict[str, Path]:
    """Return the files of a folder by the names of their clips."""
    paths = sorted((root / part).glob(f"*{SUFFIXES[part]}"))
    matches = ((_CLIP_NAME.fullmatch(path.stem), path) for path in paths)
    return {_clip(match): path for match, path in matches if match}


def _clip(match: re.Match[str]) -> str:
    """Return the name of a clip. One published WAV has the level X, where its video has XX."""
    return match[1] + ("XX" if match[2] == "X" else match[2])


def _cells(
    root: Path, name: str, files: Mapping[str, Mapping[str, Path]]
) -> dict[str, Callable[[Path], Cell]]:
    sound, video = (
        files[part].get(name, root / part / f"{name}{suffix}") for part, suffix in SUFFIXES.items()
    )
    return {
        "audio": partial(keep_file, sound, name=f"audio/{name}.wav", kind=_SOUND),
        "video": partial(write_frames, video, name=f"video/{name}"),
    }
