"""Data sets that are made from published files: found, checked, kept, counted and reported.

A data set lists its samples, each with a function per modality that writes the files of one cell.
`write_samples` calls these functions in threads. A file that cannot be read leaves its cell empty
and is reported, so a few broken files never stop the work of an hour.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dimml.errors import InputError, UsageError
from dimml.modalities import Kind
from dimml.progress import print_status, track
from train.datasets.output import MANIFEST, SPLITS, Cell, Cells, new_data_set, write_manifest
from train.threads import in_threads

VALIDATION_SHARE = 0.1
"""The share of the published train split that validates, if no validation split is published."""

SHOWN_PROBLEMS = 5
_SAMPLES_AHEAD = 64
_LFS_POINTER = b"version https://git-lfs"


class BrokenFileError(Exception):
    """A published file is missing or damaged.

    Args:
        path: The file, or the folder of frames.
        reason: What is wrong with it.
        cell: The cell of the part that could be read, None if there is none.
    """

    def __init__(self, path: Path, reason: str, cell: Cell = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.cell = cell


@dataclass(frozen=True)
class PublishedSample:
    """A sample of a published data set.

    Attributes:
        id: Its id, which is also a part of file names.
        split: One of `SPLITS`.
        label: Its label.
        cells: Modality to the function that writes the files of its cell into the folder of the
            data set and returns the cell. The function raises `BrokenFileError`.
    """

    id: str
    split: str
    label: str
    cells: Mapping[str, Callable[[Path], Cell]]


class Source(NamedTuple):
    """A published data set, as messages name it.

    Attributes:
        name: Its name on the command line.
        published_in: Where its files are published.
        unit: What one sample is, in the plural.
        total: How many samples are published.
    """

    name: str
    published_in: str
    unit: str
    total: int


def check_root(root: Path, parts: Sequence[str], source: Source) -> None:
    """Check that the folder of published files holds all its parts.

    Raises:
        UsageError: If a file or folder is missing.
    """
    layout = f"ROOT is the folder that holds {', '.join(parts)}, as in {source.published_in}"
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; {layout}")
    for part in parts:
        path = root / part
        if not (path.is_dir() if part.endswith("/") else path.is_file()):
            kind = "folder" if part.endswith("/") else "file"
            raise UsageError(f"the {kind} {path} is missing; {layout}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line of a list, without blanks and empty lines.

    Raises:
        UsageError: If the file is missing or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8 text; download it again") from (
            error
        )
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def draw_groups(
    groups: Iterable[tuple[str, str]], seed: int, share: float = VALIDATION_SHARE
) -> set[tuple[str, str]]:
    """Draw a share of the groups of each label, at least one, but never all.

    What is drawn depends on the seed and on the names of a label's groups alone.

    Args:
        groups: Pairs of label and group. All samples of a group must be in one split.
        seed: Seed of the draw, 0 or more.
        share: The share to draw.
    """
    by_label: dict[str, set[str]] = defaultdict(set)
    for label, group in groups:
        by_label[label].add(group)
    drawn = set()
    for label, names in by_label.items():
        ordered = sorted(names)
        count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
        order = np.random.default_rng([seed, *label.encode()]).permutation(len(ordered))
        drawn |= {(label, ordered[place]) for place in order[:count]}
    return drawn


def read_content(path: Path) -> bytes:
    """Return the content of a published file.

    Raises:
        BrokenFileError: If the file is missing, empty or a pointer of Git LFS.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BrokenFileError(path, "the file is missing") from None
    except OSError as error:
        raise BrokenFileError(path, error.strerror or str(error)) from error
    if not content:
        raise BrokenFileError(path, "the file is empty (0 bytes)")
    if content.startswith(_LFS_POINTER):
        raise BrokenFileError(path, "it is a pointer of Git LFS; run `git lfs pull` in its folder")
    return content


def check_file(path: Path, kind: Kind) -> None:
    """Check that training can decode a published file.

    Raises:
        BrokenFileError: If the file cannot be decoded.
    """
    try:
        kind.decode(read_content(path))
    except InputError as error:
        # The rest of the message advises to convert the file.
        raise BrokenFileError(path, error.message.partition(";")[0]) from error


def keep_file(source: Path, folder: Path, name: str, kind: Kind) -> str:
    """Check a published file, and put it into the data set as it is.

    Args:
        source: The published file.
        folder: The folder of the data set.
        name: The path of the file in that folder.
        kind: The kind that training decodes the file with.

    Returns:
        `name`, the cell.

    Raises:
        BrokenFileError: If the file cannot be decoded.
    """
    check_file(source, kind)
    link_file(source, folder / name)
    return name


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it to another file system.

    A hard link takes no space, and stays valid when either name is moved or deleted.
    """
    try:
        # A link to a symbolic link would be a symbolic link, which breaks when a folder moves.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_samples(
    samples: Sequence[PublishedSample], out: Path, source: Source, notes: Iterable[str] = ()
) -> Path:
    """Write the files and the manifest of a data set, and report what was found.

    Args:
        samples: All samples, in the order of the manifest, with the same modalities.
        out: Folder to write, which does not exist or is empty.
        source: The published data set.
        notes: Further lines to report.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If a split has no sample, or no sample has a readable file.
    """
    listed = {sample.split for sample in samples}
    if empty := [split for split in SPLITS if split not in listed]:
        raise UsageError(
            f"the published files name no {source.unit} for the {empty[0]} split; get the complete "
            f"{source.name} from {source.published_in}"
        )
    modalities = list(samples[0].cells)
    problems: list[str] = []
    rows: list[Cells] = []
    with new_data_set(out, modalities) as folder:
        written = in_threads(partial(_write_cells, folder=folder), samples, _SAMPLES_AHEAD)
        for row, found in track(written, f"Writing {source.name}", len(samples)):
            problems += found
            if any(row[name] is not None for name in modalities):
                rows.append(row)
        if not rows:
            raise UsageError(
                f"none of the {len(samples):,} {source.unit} of {source.name} can be read; the "
                f"first problem: {problems[0]}"
            )
        columns = ("id", "split", "label", *modalities)
        write_manifest(folder, columns, rows)
    left_out = len(samples) - len(rows)
    _report(rows, left_out, problems, source, notes)
    return out / MANIFEST


def _write_cells(sample: PublishedSample, folder: Path) -> tuple[Cells, list[str]]:
    """Write the files of a sample; return its row, and what is wrong with its files."""
    row: Cells = {"id": sample.id, "split": sample.split, "label": sample.label}
    problems = []
    for name, write in sample.cells.items():
        try:
            row[name] = write(folder)
        except BrokenFileError as error:
            row[name] = error.cell
            problems.append(str(error))
    # Several cells can come from one file.
    return row, list(dict.fromkeys(problems))


def _report(
    rows: Sequence[Cells],
    left_out: int,
    problems: Sequence[str],
    source: Source,
    notes: Iterable[str],
) -> None:
    counts = Counter(row["split"] for row in rows)
    splits = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
    count = f"{len(rows):,}"
    if len(rows) != source.total:
        count += f" of the {source.total:,} published"
    print_status(f"{source.name}: {count} {source.unit}: {splits}")
    for note in notes:
        print_status(note)
    if problems:
        print_status(
            f"{len(problems):,} files are missing or damaged, and their cells are empty or hold "
            "the part that can be read:"
        )
        for problem in problems[:SHOWN_PROBLEMS]:
            print_status(f"  {problem}")
        if len(problems) > SHOWN_PROBLEMS:
            print_status(f"  and {len(problems) - SHOWN_PROBLEMS:,} more")
    if left_out:
        print_status(f"{left_out:,} {source.unit} have no readable file and are left out")
