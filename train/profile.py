"""Profile the columns of a table: what their cells hold, judged by the first rows."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dimml.errors import InputError, ManifestError
from dimml.modalities import KINDS
from dimml.modalities.paths import missing_file_message, other_form
from dimml.samples import is_absent
from dimml.table import TableSource
from dimml.table.cells import cell_text, modality_value
from dimml.table.records import is_utf8
from dimml.table.rows import table_records
from train.file_kinds import file_kind, is_video

MAX_ROWS = 20_000
MAX_DECODED_RECORDINGS = 20
TEXT_COLUMNS = frozenset(
    (
        *("text", "title", "description", "caption", "comment", "comments", "review", "sentence"),
        *("transcript", "transcription", "utterance", "note", "notes", "message", "summary"),
        *("headline", "question", "body", "abstract", "tweet", "post", "content"),
    )
)
"""Words of column names whose column is text, even where it has few words or values."""

_FILE_SHARE = 0.8
"""A column holds files if this share of its cells does."""
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
"""A word between blanks, or a character of a script without blanks."""
_LETTER = re.compile(r"[^\W\d_]")
_FOREIGN_LETTER = re.compile(r"[^\W\d_a-zA-Z]")
_WHOLE = re.compile(r"[+-]?\d+")
_LONG_TEXT = 200
_SHOWN_VALUES = 20


@dataclass(frozen=True)
class ColumnProfile:
    """What a column holds.

    Attributes:
        name: Name of the column.
        kind: `image`, `frames` (lists of images), `audio`, `text`, `category`, `number`, `id`,
            `other` or `empty`.
        rows: Rows of the profile.
        missing: Rows whose cell is empty.
        distinct: Distinct values of cells that are no files.
        values: The most frequent values and their rows, at most `_SHOWN_VALUES`.
        files: Cells that name a file of an image or a recording.
        missing_files: Files that do not exist.
        missing_file: What is wrong with the first of them.
        words: The 95th percentile of the words of a text.
        foreign: Share of texts with letters other than a to z.
        frames: Images of the longest list.
        videos: Cells that are videos, which count as `audio`.
        seconds: The 90th percentile of the lengths of some recordings; None if none can be read.
    """

    name: str
    kind: str
    rows: int
    missing: int
    distinct: int = 0
    values: Mapping[str, int] = field(default_factory=dict)
    files: int = 0
    missing_files: int = 0
    missing_file: str = ""
    words: int = 0
    foreign: float = 0.0
    frames: int = 0
    videos: int = 0
    seconds: float | None = None

    @property
    def repeats(self) -> bool:
        """Whether the values occur twice or more on average, as those of a label do."""
        return 0 < self.distinct <= max(2, (self.rows - self.missing) // 2)


def profile_table(path: Path) -> tuple[list[ColumnProfile], bool]:
    """Return the profile of each column, and whether it covers all rows.

    Args:
        path: A table, folder or pattern, of which the first `MAX_ROWS` rows are read.

    Raises:
        UsageError: If a table or one of its lines cannot be read, or there is no row.
    """
    columns: dict[str, _Column] = {}
    rows = 0
    complete = True
    for table, record in table_records(TableSource(path, {})):
        if rows == MAX_ROWS:
            complete = False
            break
        rows += 1
        for name, value in record.items():
            # An exported index has no name.
            if name and name not in columns:
                if not is_utf8(name):
                    raise ManifestError(
                        f"{table}: the name of a column is not UTF-8; write the table again in "
                        "UTF-8"
                    )
                columns[name] = _Column(name)
            if name and not is_absent(value) and value != b"":
                columns[name].add(value, table.parent)
    if not rows:
        raise ManifestError(f"{path} has no rows; write one row per sample below the header")
    return [column.profile(rows) for column in columns.values()], complete


class _Column:
    """Collects what the cells of a column hold, without keeping files or long texts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.forms: Counter[str] = Counter()
        self.values: Counter[str] = Counter()
        self.words: list[int] = []
        self.with_letters = self.foreign = self.frames = self.files = self.videos = 0
        self.missing_files = 0
        self.missing_file = ""
        self._recordings: list[Any] = []
        self._random = random.Random(0)

    def add(self, cell: Any, folder: Path) -> None:
        """Add a cell that is not empty; paths are relative to the folder."""
        try:
            value = modality_value(self.name, cell, "audio", folder.joinpath)
        except InputError:
            self.forms["other"] += 1
            return
        if value is None:
            return
        parts = value if isinstance(value, list) else [value]
        kinds = {file_kind(part) for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is None:
            self._add_text(cell)
            return
        for part in parts:
            self._add_file(part)
        if kind == "image" and isinstance(value, list):
            kind = "frames"
            self.frames = max(self.frames, len(value))
        self.forms[kind] += 1
        if kind == "audio":
            self.videos += all(map(is_video, parts))
            self._sample(value)

    def profile(self, rows: int) -> ColumnProfile:
        """Return the profile of the column in a table of so many rows."""
        present = self.forms.total()
        kind = self._kind()
        return ColumnProfile(
            self.name,
            kind,
            rows,
            rows - present,
            len(self.values),
            dict(self.values.most_common(_SHOWN_VALUES)),
            self.files,
            self.missing_files,
            self.missing_file,
            int(np.percentile(self.words, 95)) if self.words else 0,
            self.foreign / max(1, len(self.words)),
            self.frames,
            self.videos,
            self._seconds() if kind == "audio" else None,
        )

    def _add_file(self, value: Any) -> None:
        if not isinstance(value, Path):
            return
        self.files += 1
        if os.path.isfile(value) or os.path.isfile(other_form(value)):
            return
        self.missing_files += 1
        self.missing_file = self.missing_file or missing_file_message(value)

    def _add_text(self, cell: Any) -> None:
        try:
            text = (cell_text(cell, self.name) or "").strip()
        except InputError:
            self.forms["other"] += 1
            return
        self.forms["number" if _is_number(text) else "text"] += 1
        short = len(text) <= _LONG_TEXT
        self.values[text if short else hashlib.sha256(text.encode()).hexdigest()] += 1
        self.words.append(len(_WORD.findall(text)))
        self.with_letters += _LETTER.search(text) is not None
        self.foreign += _FOREIGN_LETTER.search(text) is not None

    def _sample(self, value: Any) -> None:
        """Keep a random sample of the recordings, each with the same probability."""
        number = self.forms["audio"]
        if number <= MAX_DECODED_RECORDINGS:
            self._recordings.append(value)
        elif (place := self._random.randrange(number)) < MAX_DECODED_RECORDINGS:
            self._recordings[place] = value

    def _seconds(self) -> float | None:
        kind = KINDS["audio"](self.name, {})
        lengths = []
        for value in self._recordings:
            with suppress(InputError):
                lengths.append(len(kind.decode(value).samples) / kind.config.sample_rate)
        return float(np.percentile(lengths, 90)) if lengths else None

    def _kind(self) -> str:
        present = self.forms.total()
        if not present:
            return "empty"
        for form in ("image", "audio", "frames"):
            if self.forms[form] >= _FILE_SHARE * present:
                return form
        count = self.forms["text"] + self.forms["number"]
        if count < _FILE_SHARE * present:
            return "other"
        return self._kind_of_text(count)

    def _kind_of_text(self, count: int) -> str:
        distinct, words = len(self.values), sum(self.words) / count
        has_letters = self.with_letters >= count / 2
        if has_letters and TEXT_COLUMNS & set(re.split(r"[\W_]+", self.name.lower())):
            return "text"
        numbers = self.forms["number"] == count
        is_id = all("://" not in v and (not numbers or _WHOLE.fullmatch(v)) for v in self.values)
        if distinct == count > 2 and max(self.words) <= 1 and is_id:
            return "id"
        if numbers:
            return "number"
        if distinct <= max(2, count // 2) and (words < 6 or distinct <= count / 5):
            return "category"
        return "text" if has_letters and words >= 1.5 else "other"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
