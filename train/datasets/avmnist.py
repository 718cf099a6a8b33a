"""Spoken and written digits from two published collections, paired in the manner of AV-MNIST.

A sample is a recording of the Free Spoken Digit Dataset and a picture of MNIST's test set, both of
the same digit. No picture is in two samples, and no speaker is in two splits. The published licence
of the recordings, CC BY-SA 4.0, also covers their copies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dimml.errors import InputError, UsageError
from dimml.modalities.audio import Audio
from dimml.progress import track
from train.datasets.idx import read_idx
from train.datasets.output import MANIFEST, SPLITS, Cells, check_out, new_data_set, write_manifest

RECORDINGS = "fsdd/recordings"
PICTURES = "mnist/t10k-images-idx3-ubyte.gz"
PICTURE_LABELS = "mnist/t10k-labels-idx1-ubyte.gz"
# Where the files are published, for error messages.
SPEECH_SOURCE = (
    "the Free Spoken Digit Dataset, on GitHub as Jakobovski/free-spoken-digit-dataset, "
    "in its folder `recordings`"
)
PICTURE_SOURCE = "MNIST, the database of handwritten digits by LeCun, Cortes and Burges"

SPEAKERS_PER_SPLIT: Mapping[str, int] = {"train": 4, "validation": 1, "test": 1}
SPEAKER_COUNT = sum(SPEAKERS_PER_SPLIT.values())
SAMPLE_RATE = 8_000
PICTURE_SIZE = (28, 28)
COLUMNS = ("id", "split", "label", "audio", "image")

_RECORDING_NAME = re.compile(r"([0-9])_([^_]+)_(0|[1-9][0-9]*)\.wav")


class SpokenDigit(NamedTuple):
    """A recording, named `{digit}_{speaker}_{number}.wav`; numbers start at 0."""

    digit: int
    speaker: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.digit}_{self.speaker}_{self.number}"


def write(root: Path, out: Path, *, seed: int = 0) -> Path:
    """Write the data set into a folder, which appears when it is complete.

    The speakers' names are sorted and rotated by `seed` modulo 6: the list then starts with speaker
    `seed % 6`. Its first four speakers are the train split, the fifth is the validation split, and
    the sixth is the test split. `seed // 6` is the seed of the pairing. So seeds 0 to 5 pair the
    same files and test every speaker once, and seeds 6 to 11 do so with other pairs. The same seed
    and package versions give the same bytes.

    Args:
        root: Folder with the published files, in the folders `fsdd` and `mnist`.
        out: Folder to write, which does not exist or is empty.
        seed: Seed of the split and the pairing, 0 or more.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If `out` is not empty, the seed is negative, a file of `root` is missing or
            damaged, or a digit has more recordings than pictures.
    """
    check_out(out, seed)
    recordings = find_recordings(root)
    pixels, labels = read_pictures(root)
    pairs = pair(recordings, labels, seed // SPEAKER_COUNT)
    splits = split_speakers({recording.speaker for recording in recordings}, seed)
    recordings.sort(key=lambda recording: (SPLITS.index(splits[recording.speaker]), recording))
    kind = Audio("audio", {"sample_rate": SAMPLE_RATE})
    rows = list[Cells]()
    with new_data_set(out, ("audio", "image")) as folder:
        for recording in track(recordings, "Writing avmnist"):
            audio, image = f"audio/{recording.name}.wav", f"image/{pairs[recording]:05d}.png"
            published = root / RECORDINGS / f"{recording.name}.wav"
            (folder / audio).write_bytes(_read_recording(published, kind))
            Image.fromarray(pixels[pairs[recording]]).save(folder / image)
            cells = (recording.name, splits[recording.speaker], str(recording.digit), audio, image)
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
        write_manifest(folder, COLUMNS, rows)
    return out / MANIFEST


def split_speakers(speakers: Iterable[str], seed: int) -> dict[str, str]:
    """Return the split of each of the six speakers, by the rule of `write`."""
    names = sorted(speakers)
    start = seed % len(names)
    splits = [split for split, count in SPEAKERS_PER_SPLIT.items() for _ in range(count)]
    return dict(zip(names[start:] + names[:start], splits, strict=True))


def pair(
    recordings: Sequence[SpokenDigit], labels: NDArray[np.uint8], seed: int
) -> dict[SpokenDigit, int]:
    """Choose a picture of the same digit for each recording, and no picture twice.

    Args:
        recordings: The recordings, in any order.
        labels: The digits [n] of the pictures.
        seed: Seed of the choice, 0 or more.

    Returns:
        Recording to the number of its picture.

    Raises:
        UsageError: If a digit has more recordings than pictures.
    """
    pairs = dict[SpokenDigit, int]()
    for digit in range(10):
        spoken = sorted(recording for recording in recordings if recording.digit == digit)
        written = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(labels == digit))
        if len(spoken) > len(written):
            raise UsageError(
                f"the digit {digit} has {len(spoken)} recordings in {RECORDINGS}, but {PICTURES} "
                f"has only {len(written)} pictures of it, and each recording needs its own; use "
                f"the complete file of {PICTURE_SOURCE}"
            )
        pairs.update(zip(spoken, written[: len(spoken)].tolist(), strict=True))
    return pairs


def find_recordings(root: Path) -> list[SpokenDigit]:
    """Return the recordings in the folder of published files.

    Raises:
        UsageError: If there are not six speakers, each with as many recordings of each digit.
    """
    folder = _part(root, RECORDINGS, SPEECH_SOURCE)
    matches = [
        match for path in folder.iterdir() if (match := _RECORDING_NAME.fullmatch(path.name))
    ]
    recordings = [SpokenDigit(int(m[1]), m[2], int(m[3])) for m in matches]
    speakers = sorted({recording.speaker for recording in recordings})
    if len(speakers) != SPEAKER_COUNT:
        names = ", ".join(speakers[:10]) or "none"
        raise UsageError(
            f"{folder} has recordings of {len(speakers)} speakers ({names}), but the split needs "
            f"{SPEAKER_COUNT}; expected names such as 7_theo_0.wav (the digit, the speaker and a "
            f"number), as in {SPEECH_SOURCE}"
        )
    most = max(Counter((recording.digit, recording.speaker) for recording in recordings).values())
    complete = {SpokenDigit(*key) for key in product(range(10), speakers, range(most))}
    if missing := sorted(complete - set(recordings)):
        raise UsageError(
            f"{len(missing)} of {len(complete)} recordings are missing, the first is "
            f"{folder / missing[0].name}.wav; expected {most} of each digit by each speaker, as in "
            f"{SPEECH_SOURCE}"
        )
    return recordings


def read_pictures(root: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return MNIST's test digits: pixels [n, 28, 28], 0 (paper) to 255 (ink), and labels [n].

    Raises:
        UsageError: If a file is missing or damaged, or the two files do not fit each other.
    """
    files = [_part(root, name, PICTURE_SOURCE) for name in (PICTURES, PICTURE_LABELS)]
    pixels, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if pixels.shape[1:] != PICTURE_SIZE:
        raise UsageError(
            f"{files[0]} has pictures of {pixels.shape[1]} x {pixels.shape[2]} pixels; expected "
            f"28 x 28, as in {PICTURE_SOURCE}"
        )
    if len(pixels) != len(labels):
        raise UsageError(
            f"{files[0]} has {len(pixels)} pictures and {files[1]} has {len(labels)} labels; "
            f"download both files again, from {PICTURE_SOURCE}"
        )
    if labels.max(initial=0) > 9:
        raise UsageError(f"{files[1]} has the label {labels.max()}; labels are 0 to 9")
    return pixels, labels


def _part(root: Path, name: str, source: str) -> Path:
    """Return the path of a file, or of the folder of recordings, which must exist."""
    if not root.is_dir():
        raise UsageError(
            f"{root} is not a folder; ROOT is the folder that holds {RECORDINGS}, {PICTURES} and "
            f"{PICTURE_LABELS}"
        )
    path = root / name
    kind = "folder" if name == RECORDINGS else "file"
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise UsageError(f"the {kind} {path} is missing; it is published in {source}")
    return path


def _read_recording(path: Path, kind: Audio) -> bytes:
    """Return the content of a recording, after a check that training can decode it."""
    content = path.read_bytes()
    try:
        kind.decode(content)
    except InputError as error:
        reason = error.message.partition(";")[0]  # The rest advises to convert the file.
        raise UsageError(
            f"{path} is damaged: {reason}; download it again, from {SPEECH_SOURCE}"
        ) from error
    return content
