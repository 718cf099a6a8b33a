"""Miniature trees of published data sets, in exactly the published layouts."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

LITTER = (".DS_Store", "Thumbs.db")
"""Files that file managers leave behind."""

MODELS = {"airplane": (10, 2), "bathtub": (10, 2), "night_stand": (10, 2)}
"""Class of ModelNet40 to the numbers of its models in the train and the test split."""

ACTIONS = ("ApplyEyeMakeup", "Archery", "HandstandPushups")
TRAIN_GROUPS, TEST_GROUPS = range(8, 12), range(1, 3)
CLIPS = (1, 2)
UCF_FRAMES = 14


def litter(root: Path) -> None:
    """Leave the files of file managers in every folder of a tree."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in LITTER:
            (folder / name).write_bytes(b"\0\0\0\1Bud1")


def picture(path: Path, shade: int, mode: str = "RGB") -> None:
    """Write a picture of a shade with a pattern."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encode(shade, mode, path.suffix))


@lru_cache
def _encode(shade: int, mode: str, suffix: str) -> bytes:
    random = np.random.default_rng(shade)
    pixels = random.integers(0, 60, (30, 40, 3), np.uint8) + np.uint8(40 * (shade % 5))
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG" if suffix == ".png" else "JPEG")
    return file.getvalue()


def cut(path: Path, size: int) -> None:
    """Keep only the first bytes of a file."""
    path.write_bytes(path.read_bytes()[:size])


def write_modelnet40(root: Path) -> Path:
    """Write `CLASS/train/CLASS_0001.obj.shaded_v001.png` to `_v012.png`, as the renders have it."""
    for shade, (label, counts) in enumerate(MODELS.items()):
        number = 0
        for split, count in zip(("train", "test"), counts, strict=True):
            for _ in range(count):
                number += 1
                for view in (1, 2, 7, 12):
                    name = f"{label}_{number:04d}.obj.shaded_v{view:03d}.png"
                    picture(root / label / split / name, shade)
    litter(root)
    return root


def write_ucf101(root: Path) -> Path:
    """Write frames and flow of videos and the split lists of UCF101, with Windows line ends.

    As published, flow has one frame less than the video, and the lists of one class write the
    video's name with another capital.
    """
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for number, label in enumerate(ACTIONS, 1):
        for split, groups in (("train", TRAIN_GROUPS), ("test", TEST_GROUPS)):
            for group in groups:
                for clip in CLIPS:
                    video = f"v_{label}_g{group:02d}_c{clip:02d}"
                    _write_video_frames(root, video, number)
                    listed = video.replace("Handstand", "HandStand")
                    line = f"{label}/{listed}.avi"
                    lists[split].append(f"{line} {number}" if split == "train" else line)
    folder = root / "ucfTrainTestlist"
    folder.mkdir()
    for split, lines in lists.items():
        for official in (1, 2, 3):
            text = "".join(f"{line}\r\n" for line in lines)
            (folder / f"{split}list{official:02d}.txt").write_bytes(text.encode())
    classes = "".join(f"{number} {label}\r\n" for number, label in enumerate(ACTIONS, 1))
    (folder / "classInd.txt").write_bytes(classes.encode())
    litter(root)
    return root


def _write_video_frames(root: Path, video: str, shade: int) -> None:
    for frame in range(1, UCF_FRAMES + 1):
        name = f"frame{frame:06d}.jpg"
        picture(root / "jpegs_256" / video / name, shade)
        if frame < UCF_FRAMES:
            for axis in "uv":
                picture(root / "tvl1_flow" / axis / video / name, shade + 5 * frame, mode="L")
