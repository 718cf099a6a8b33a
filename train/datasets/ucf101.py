"""UCF101: sports, music and everyday actions in 101 classes, as optical flow and a picture.

The files are the frames and the TV-L1 flow that are published with the two-stream fusion network,
and the official split lists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dimml.errors import UsageError
from dimml.modalities import Image
from train.datasets.output import Cell, check_out
from train.datasets.published import (
    BrokenFileError,
    PublishedSample,
    Source,
    check_file,
    check_root,
    draw_groups,
    keep_file,
    link_file,
    read_lines,
    write_samples,
)

FRAMES, FLOW_U, FLOW_V = "jpegs_256/", "tvl1_flow/u/", "tvl1_flow/v/"
LISTS = "ucfTrainTestlist"
SOURCE = Source(
    name="ucf101",
    published_in=(
        "the frames and flow of feichtenhofer/twostreamfusion on GitHub and the split lists of "
        "UCF101"
    ),
    unit="videos",
    total=13_320,
)
SPLIT_NUMBERS = (1, 2, 3)
FLOW_FRAMES = 10

_LISTED_VIDEO = re.compile(r"([^/\\]+)[/\\](v_[^/\\]+_(g[0-9]{2})_c[0-9]{2})\.avi(?:\s+[0-9]+)?")
_PICTURE = Image("picture", {})
_FRAME_NAME = re.compile(r"frame([0-9]{6})\.jpg")


class ListedVideo(NamedTuple):
    """A video of a split list. The clips of a group are cut from one recording."""

    label: str
    name: str
    group: str


def write(root: Path, out: Path, *, seed: int = 0, split: int = 1) -> Path:
    """Write the data set into a folder, which appears when it is complete.

    The test split is that of the official list. About a tenth of the groups of each class of the
    official train list are the validation split, because the clips of a group look alike.

    Args:
        root: Folder with `jpegs_256`, `tvl1_flow` and `ucfTrainTestlist`.
        out: Folder to write, which does not exist or is empty.
        seed: Seed of the validation split, 0 or more.
        split: Number of the official split, 1 to 3.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If `out` is not empty, a file or folder of `root` is missing, or a line of a
            list has another form.
    """
    check_out(out, seed)
    if split not in SPLIT_NUMBERS:
        raise UsageError(f"--split {split}: UCF101 has the splits 1, 2 and 3")
    lists = {name: f"{LISTS}/{name}list{split:02d}.txt" for name in ("train", "test")}
    check_root(root, [FRAMES, FLOW_U, FLOW_V, *lists.values()], SOURCE)
    videos = {name: read_list(root / path) for name, path in lists.items()}
    counts = Counter(video.name for listed in videos.values() for video in listed)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UsageError(
            f"{twice[0]} is twice in {' and '.join(lists.values())}, and must be in one split; "
            "download them again"
        )
    validation = draw_groups(((video.label, video.group) for video in videos["train"]), seed)
    folders = {part: _folders(root / part) for part in (FRAMES, FLOW_U, FLOW_V)}
    samples = []
    for name, listed_videos in videos.items():
        for video in listed_videos:
            is_validation = name == "train" and (video.label, video.group) in validation
            cells = _cells(root, video.name, folders)
            samples.append(
                PublishedSample(
                    video.name, "validation" if is_validation else name, video.label, cells
                )
            )
    return write_samples(samples, out, SOURCE)


def read_list(path: Path) -> list[ListedVideo]:
    """Return the videos of a split list, sorted.

    Raises:
        UsageError: If the list is empty, or a line has another form.
    """
    videos = []
    for number, line in read_lines(path):
        match = _LISTED_VIDEO.fullmatch(line)
        if not match:
            raise UsageError(
                f"{path}, line {number}: expected a class, a video and perhaps the number of the "
                f"class, such as Archery/v_Archery_g08_c01.avi 3, got {line[:100]!r}"
            )
        videos.append(ListedVideo(match[1], match[2], match[3]))
    if not videos:
        raise UsageError(f"{path} names no video; download it again")
    return sorted(videos)


def _folders(parent: Path) -> dict[str, Path]:
    """Return the folders of videos by their names in lower case.

    The official lists write v_HandStandPushups, and the published folders v_HandstandPushups.
    """
    return {path.name.lower(): path for path in sorted(parent.iterdir()) if path.is_dir()}


def _cells(
    root: Path, name: str, folders: Mapping[str, Mapping[str, Path]]
) -> dict[str, Callable[[Path], Cell]]:
    frames, u, v = (
        folders[part].get(name.lower(), root / part / name) for part in (FRAMES, FLOW_U, FLOW_V)
    )
    return {
        "flow": partial(write_flow, u, v, name=f"flow/{name}"),
        "image": partial(write_picture, frames, name=f"image/{name}.jpg"),
    }


def write_flow(u: Path, v: Path, folder: Path, name: str) -> list[str]:
    """Keep the middle frames of the flow of a video; return their paths, u and v by turns.

    Args:
        u: Folder of the horizontal flow.
        v: Folder of the vertical flow.
        folder: The folder of the data set.
        name: The path of the folder to make in it.

    Raises:
        BrokenFileError: If there are fewer than 10 frames, or one of them cannot be decoded.
    """
    horizontal, vertical = _frames(u), _frames(v)
    numbers = sorted(horizontal.keys() & vertical.keys())
    if len(numbers) < FLOW_FRAMES:
        raise BrokenFileError(u, f"{len(numbers)} frames of flow; {FLOW_FRAMES} are needed")
    start = len(numbers) // 2 - FLOW_FRAMES // 2
    middle = numbers[start : start + FLOW_FRAMES]
    if middle[-1] - middle[0] != FLOW_FRAMES - 1:
        raise BrokenFileError(u, f"frames are missing between {middle[0]} and {middle[-1]}")
    pairs = [(horizontal[number], vertical[number]) for number in middle]
    for path in (path for pair in pairs for path in pair):
        check_file(path, _PICTURE)
    (folder / name).mkdir()
    cell = []
    for number, pair in zip(middle, pairs, strict=True):
        for axis, path in zip("uv", pair, strict=True):
            cell.append(f"{name}/{axis}{number:06d}.jpg")
            link_file(path, folder / cell[-1])
    return cell


def write_picture(frames: Path, folder: Path, name: str) -> str:
    """Keep the middle frame of a video; return its path.

    Raises:
        BrokenFileError: If there is no frame, or the frame cannot be decoded.
    """
    paths = list(_frames(frames).values())
    if not paths:
        raise BrokenFileError(frames, "no frame such as frame000001.jpg")
    return keep_file(paths[len(paths) // 2], folder, name, _PICTURE)


def _frames(folder: Path) -> dict[int, Path]:
    """Return the frames of a video by number, in order.

    Raises:
        BrokenFileError: If the folder is missing.
    """
    if not folder.is_dir():
        raise BrokenFileError(folder, "the folder is missing")
    matches = ((_FRAME_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))
