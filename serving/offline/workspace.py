"""The settings of a scoring job, and the folder that holds its output parts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet
import pydantic

from dimml.errors import DimmlError, UsageError
from dimml.files import LOCK, locked_folder, new_file, write_atomic
from dimml.progress import print_status
from serving.offline.text import write_text

JOB, SUCCESS = "_job.json", "_SUCCESS.json"
FORMATS = (".parquet", ".jsonl", ".csv")
PART_ROWS, WINDOW_ROWS = 10_000, 64
ScoredPart = tuple[int, Iterable[pa.Table]]
"""The number of a part, and its rows as tables in the columns of the output."""

# `Path` joins the two slashes of a URL.
_URL_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_PART = re.compile(r"part-(\d{5,})\.parquet")


class Job(pydantic.BaseModel):
    """Everything that the bytes of the output depend on, stored beside the parts.

    The attributes that are not described here are those of `ScoreOptions`.

    Attributes:
        bundle: Id of the bundle.
        tables: Path or URL of each table to its size and checksum.
        provider: Execution provider.
        threads: Threads of each graph.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    bundle: str
    tables: dict[str, str]
    columns: dict[str, str]
    keep: dict[str, str]
    keep_na: bool = False
    on_unreadable: Literal["error", "absent"]
    probabilities: bool
    features: bool = False
    provider: Literal["cpu", "cuda", "tensorrt"]
    threads: int = pydantic.Field(ge=1)
    part_rows: int = pydantic.Field(ge=1)
    window_rows: int = pydantic.Field(ge=1)

    def differences(self, other: Job) -> str:
        """Describe the settings in which another job differs; empty if there are none."""
        differences = []
        for name in Job.model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict) and mine != theirs:
                keys = sorted(k for k in mine | theirs if mine.get(k) != theirs.get(k))
                differences.append(f"other {name} ({', '.join(keys[:3])})")
            elif mine != theirs:
                differences.append(f"{name} {mine}, not {theirs}")
        return " and ".join(differences)


@dataclass(frozen=True)
class Workspace:
    """The place where a job writes; `out`, which the user named, is a folder or one file."""

    out: Path

    @property
    def is_folder(self) -> bool:
        """Whether the parts themselves are the output."""
        return self.out.suffix.lower() not in FORMATS

    @property
    def folder(self) -> Path:
        """The folder of the parts."""
        return self.out if self.is_folder else self.out.with_name(self.out.name + ".parts")

    @property
    def success(self) -> Path:
        """The report, which is written when the job is complete."""
        name = self.out.name + ".success.json"
        return self.out / SUCCESS if self.is_folder else self.out.with_name(name)

    def check(self, tables: Sequence[str], overwrite: bool) -> None:
        """Reject an output that is no local path, overlaps the input, or belongs to something else.

        Raises:
            UsageError: If the output cannot be written there.
        """
        if _URL_AS_PATH.match(str(self.out)):
            raise UsageError(f"{self.out}: the output is a local path; copy it from there")
        if str(self.out) == ".":
            raise UsageError("name a file or a folder for the output")
        if self.out.suffix and self.is_folder and not self.out.is_dir():
            raise UsageError(
                f"{self.out}: the output is a .parquet, .jsonl or .csv file, or a folder, which "
                "is named without a suffix"
            )
        if not self.is_folder and self.out.is_dir():
            raise UsageError(f"{self.out} is a folder: name a file, or a folder without a suffix")
        for table in tables:
            if self.out.exists() and Path(table).exists() and self.out.samefile(table):
                raise UsageError(f"{self.out} is the table itself: name another output")
            if self.folder.resolve() in Path(table).resolve().parents:
                raise UsageError(f"{self.folder} holds the table {table}: name another output")
        self._check_is_free(overwrite)

    def _check_is_free(self, overwrite: bool) -> None:
        # Called before the folder is locked, because the lock is a file in the folder.
        if (self.folder / JOB).is_file() or (not self.is_folder and self.success.is_file()):
            return
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        if names := sorted(path.name for path in files if path.name != LOCK):
            raise UsageError(
                f"{self.folder} holds {names[0]!r} and no scores of this command: name another "
                "output, or a folder that is empty"
            )
        if not self.is_folder and self.out.exists() and not overwrite:
            raise UsageError(f"{self.out} exists: name another output, or add --overwrite")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and keep other processes out of it for the block.

        Raises:
            UsageError: If another process writes there, or a file has the folder's name.
        """
        with locked_folder(self.folder, "writing", "another OUTPUT"):
            yield
        if not self.is_folder:
            with suppress(OSError):
                self.folder.rmdir()

    def prepare(self, job: Job, overwrite: bool) -> set[int]:
        """Resume the job begun here, or begin this one; return the numbers of complete parts.

        Raises:
            UsageError: If another job was begun here.
        """
        if overwrite:
            self.success.unlink(missing_ok=True)
            self._remove_parts()
            if not self.is_folder:
                self.out.unlink(missing_ok=True)
        self._remove_damaged()
        # A process that is killed while it writes leaves its temporary file.
        for path in self.folder.glob(".*.parquet.*"):
            path.unlink()
        before = self.stored_job()
        if before is None:
            write_atomic(self.folder / JOB, job.model_dump_json(indent=1) + "\n")
        elif differences := before.differences(job):
            raise UsageError(
                f"{self.out} was begun with {differences}; go on with that, "
                "name another output, or add --overwrite"
            )
        return set(self._parts())

    def stored_job(self) -> Job | None:
        """Return the job that was begun or finished here, if any.

        Raises:
            UsageError: If its file is damaged.
        """
        if (self.folder / JOB).is_file():
            content = (self.folder / JOB).read_text()
        elif not self.is_folder and self.out.is_file() and self.success.is_file():
            content = json.dumps((self._read_report() or {}).get("job"))
        else:
            return None
        try:
            return Job.model_validate_json(content)
        except pydantic.ValidationError as error:
            raise UsageError(
                f"what {self.out} was scored with is of another version or damaged; add --overwrite"
            ) from error

    def report(self) -> dict[str, Any] | None:
        """Return the report of the finished job; None if it is not finished or lost its output."""
        report = self._read_report()
        if report and self.is_folder:
            return report if len(self._parts()) == report["parts"] else None
        return report if self.out.is_file() else None

    def _read_report(self) -> dict[str, Any] | None:
        try:
            report = json.loads(self.success.read_text())
        except (OSError, ValueError):
            return None
        is_report = isinstance(report, dict) and {"job", "parts", "rows"} <= report.keys()
        return report if is_report else None

    def _remove_damaged(self) -> None:
        for path in self._parts().values():
            try:
                pyarrow.parquet.read_table(path, page_checksum_verification=True)
            except (pa.ArrowException, OSError):
                print_status(f"{path} was damaged; it is scored again")
                path.unlink()

    def write_part(self, number: int, table: pa.Table) -> None:
        """Write a part, whole or not at all; the same rows give the same bytes."""
        path = self.folder / f"part-{number:05d}.parquet"
        with _writing(self.folder), new_file(path) as temporary:
            pyarrow.parquet.write_table(
                table, temporary, row_group_size=max(1, len(table)), write_page_checksum=True
            )

    def counts(self) -> tuple[int, Counter[str]]:
        """Return the number of rows in the parts, and the number with each error code."""
        rows, errors = 0, Counter[str]()
        for path in self._parts().values():
            try:
                codes = pyarrow.parquet.read_table(path, columns=["error_code"]).column(0)
            except (pa.ArrowException, OSError) as error:
                raise DimmlError(
                    f"{path} was damaged ({error}); remove it and run the same command again"
                ) from error
            rows += len(codes)
            errors.update(codes.drop_null().to_pylist())
        return rows, errors

    def finish(self, report: Mapping[str, Any]) -> None:
        """Join the parts if the output is one file, and write the report last."""
        with _writing(self.folder):
            if not self.is_folder:
                _join(list(self._parts().values()), self.out)
            write_atomic(self.success, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        if not self.is_folder:
            self._remove_parts()

    def _parts(self) -> dict[int, Path]:
        parts = {int(m[1]): p for p in self.folder.glob("*") if (m := _PART.fullmatch(p.name))}
        return dict(sorted(parts.items()))

    def _remove_parts(self) -> None:
        for path in [self.folder / JOB, *self._parts().values()]:
            path.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DimmlError(
            f"cannot write into {folder}: {error}; the parts there are kept: if the disk is full, "
            "free some space and run the same command again"
        ) from error


def _join(parts: Sequence[Path], out: Path) -> None:
    # One part is in memory at a time, however many there are.
    with new_file(out) as temporary:
        if out.suffix.lower() != ".parquet":
            write_text(parts, temporary, out.suffix.lower())
            return
        schema = pyarrow.parquet.read_schema(parts[0])
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part))
