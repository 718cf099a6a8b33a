"""Miniature trees of published data sets, in exactly the published layouts."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from tests.dimml.modalities.encoded import encode_video, encode_wav

LITTER = (".DS_Store", "Thumbs.db")
"""Files that file managers leave behind."""

MODELS = {"airplane": (10, 2), "bathtub": (10, 2), "night_stand": (10, 2)}
"""Class of ModelNet40 to the numbers of its models in the train and the test split."""

ACTIONS = ("ApplyEyeMakeup", "Archery", "HandstandPushups")
TRAIN_GROUPS, TEST_GROUPS = range(8, 12), range(1, 3)
CLIPS = (1, 2)
UCF_FRAMES = 14


ACTORS = ("1001", "1002", "1003", "1004")
EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
SENTENCES = ("DFA", "IEO")

EVENTS = ("Church bell", "Male speech, man speaking", "Bark")


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


def write_crema_d(root: Path) -> Path:
    """Write `AudioWAV` and `VideoFlash` of CREMA-D: WAV and FLV (Sorenson, MP3) of two seconds.

    As published, the level of one WAV is X, where that of its video is XX.
    """
    for folder in ("AudioWAV", "VideoFlash", "AudioMP3"):
        (root / folder).mkdir(parents=True)
    for place, (actor, sentence, emotion) in enumerate(product(ACTORS, SENTENCES, EMOTIONS)):
        level = "HI" if sentence == "IEO" and emotion != "NEU" else "XX"
        clip = f"{actor}_{sentence}_{emotion}_{level}"
        (root / "VideoFlash" / f"{clip}.flv").write_bytes(_video("FLV", 45 + place % 3))
        sound = clip.replace("1003_DFA_SAD_XX", "1003_DFA_SAD_X")
        (root / "AudioWAV" / f"{sound}.wav").write_bytes(_wav(EMOTIONS.index(emotion), 1.5))
    litter(root)
    return root


def write_crema_d_lists(folder: Path, root: Path) -> Path:
    """Write `train.csv` and `test.csv` over all clips, without a header, with Windows line ends."""
    folder.mkdir()
    clips = sorted(path.stem for path in (root / "VideoFlash").glob("*.flv"))
    for name, chosen in (("test", clips[::6]), ("train", sorted({*clips} - {*clips[::6]}))):
        text = "".join(f"{clip},{clip.split('_')[2]}\r\n" for clip in chosen)
        (folder / f"{name}.csv").write_bytes(text.encode())
    return folder


def write_ave(root: Path) -> Path:
    """Write the videos, the annotations and the split lists of AVE; the videos last 2 seconds."""
    (root / "AVE").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label in EVENTS:
        for split, count in (("train", 6), ("val", 2), ("test", 2)):
            for number in range(count):
                video = f"-{label[:2]}{split}_{number}"
                (root / "AVE" / f"{video}.mp4").write_bytes(_video("MP4", 50))
                lists[split].append(f"{label}&{video}&good&{number % 2}&2")
    lines = ["Category&VideoID&Quality&StartTime&EndTime"]
    for split, events in lists.items():
        lines += events
        (root / f"{split}Set.txt").write_bytes("".join(f"{e}\r\n" for e in events).encode())
    (root / "Annotations.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    (root / "ReadMe.txt").write_text("AVE dataset")
    litter(root)
    return root


@lru_cache
def _video(name: str, frames: int) -> bytes:
    return encode_video(name, frames, sound=True)


@lru_cache
def _wav(pitch: int, seconds: float) -> bytes:
    time = np.arange(round(16_000 * seconds)) / 16_000
    return encode_wav((0.3 * np.sin(2 * np.pi * (200 + 100 * pitch) * time)).astype(np.float32))
