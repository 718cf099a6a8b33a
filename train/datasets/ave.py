"""AVE: events of 28 kinds that are seen and heard in videos, as sound and as frames.

An event is a part of a video of ten seconds. The sound and the frames are cut to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dimml.errors import UsageError
from train.datasets.clips import check_decoder, write_frames, write_sound
from train.datasets.output import SPLITS, check_out
from train.datasets.published import (
    PublishedSample,
    Source,
    check_root,
    read_lines,
    write_samples,
)

VIDEOS, ANNOTATIONS = "AVE/", "Annotations.txt"
LISTS = {"test": "testSet.txt", "validation": "valSet.txt", "train": "trainSet.txt"}
"""Split to its list. A video of two lists is in the split that is named first here."""

SOURCE = Source(
    name="ave",
    published_in="the AVE data set of YapengTian/AVE-ECCV18 on GitHub",
    unit="videos",
    total=4_143,
)
_EVENT = re.compile(r"([^&]+)&([A-Za-z0-9_-]+)&([^&]*)&([0-9]+)&([0-9]+)")


class Event(NamedTuple):
    """A line of a list: a category, a video, and the seconds between which the event happens."""

    label: str
    video: str
    start: int
    end: int


def write(root: Path, out: Path, *, seed: int = 0) -> Path:
    """Write the data set into a folder, which appears when it is complete.

    The splits are the published ones. A few videos are listed with two categories, some of them in
    two splits; each is one sample, of the first of the test, validation and train list.

    Args:
        root: Folder with `AVE`, `Annotations.txt`, `trainSet.txt`, `valSet.txt` and `testSet.txt`.
        out: Folder to write, which does not exist or is empty.
        seed: Not used, because nothing is random.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If `out` is not empty, a file or folder of `root` is missing, or a line of a
            list has another form.
    """
    check_out(out, seed)
    check_decoder(SOURCE.name)
    check_root(root, [VIDEOS, ANNOTATIONS, *LISTS.values()], SOURCE)
    listed = [(split, event) for split, name in LISTS.items() for event in read_events(root / name)]
    events: dict[str, tuple[str, Event]] = {}
    for split, event in listed:
        events.setdefault(event.video, (split, event))
    notes = []
    if repeated := len(listed) - len(events):
        notes.append(
            f"{repeated:,} further lines name a video again, and are left out: a video is one "
            "sample, in one split"
        )
    annotated = {event.video for event in read_events(root / ANNOTATIONS)}
    if unlisted := len(annotated - events.keys()):
        notes.append(f"{unlisted:,} videos of {ANNOTATIONS} are in no split list, and are left out")
    order = sorted(events, key=lambda video: (SPLITS.index(events[video][0]), video))
    samples = [_sample(root, *events[video]) for video in order]
    return write_samples(samples, out, SOURCE, notes)


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a list `category&video&quality&start&end`, without its header.

    Raises:
        UsageError: If a line has another form.
    """
    for number, line in read_lines(path):
        if match := _EVENT.fullmatch(line):
            yield Event(match[1].strip(), match[2], int(match[4]), int(match[5]))
        elif number > 1 or not line.startswith("Category&"):
            raise UsageError(
                f"{path}, line {number}: expected category&video&quality&start&end, such as "
                f"Church bell&RUhOCu3LNXM&good&0&10, got {line[:100]!r}"
            )


def _sample(root: Path, split: str, event: Event) -> PublishedSample:
    path = root / VIDEOS / f"{event.video}.mp4"
    start, end = float(event.start), float(event.end)
    return PublishedSample(
        event.video,
        split,
        event.label,
        {
            "audio": partial(
                write_sound, path, name=f"audio/{event.video}.wav", start=start, end=end
            ),
            "video": partial(write_frames, path, name=f"video/{event.video}", start=start, end=end),
        },
    )
