"""What a job was started with, and the folder in which its parts gather."""

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

_URL_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_PART = re.compile(r"part-(\d{5,})\.parquet")


class Job(pydantic.BaseModel):
    """All that the bytes of the output depend on; kept beside the parts, and never changed.

    Attributes:
        bundle: its id.
        tables: path or URL of each table to its size and the sha256 of its two ends.
        columns: modality to column.
        keep: output column to input column.
        on_unreadable: see `Predictor.predict`.
        probabilities: whether there is a column of them.
        provider: "cpu", "cuda" or "tensorrt".
        threads: of each graph.
        part_rows: rows of an output part.
        window_rows: rows that are computed together.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    bundle: str
    tables: dict[str, str]
    columns: dict[str, str]
    keep: dict[str, str]
    on_unreadable: Literal["error", "absent"]
    probabilities: bool
    provider: Literal["cpu", "cuda", "tensorrt"]
    threads: int = pydantic.Field(ge=1)
    part_rows: int = pydantic.Field(ge=1)
    window_rows: int = pydantic.Field(ge=1)

    def differences(self, other: Job) -> list[str]:
        """Names of what differs."""
        return [name for name in Job.model_fields if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Workspace:
    """Where a job writes.

    Attributes:
        out: what the user named: a folder of parts, or one file.
    """

    out: Path

    @property
    def is_folder(self) -> bool:
        """Whether the parts themselves are the output."""
        return self.out.suffix.lower() not in FORMATS

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self.out if self.is_folder else self.out.with_name(self.out.name + ".parts")

    @property
    def success(self) -> Path:
        """The report, written when all is done."""
        if self.is_folder:
            return self.out / SUCCESS
        return self.out.with_name(self.out.name + ".success.json")

    def check(self, tables: Sequence[str], overwrite: bool) -> None:
        """Refuses an output that is taken, or could not be told from the input.

        Raises:
            UsageError: it is such a one.
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
        is_ours = (self.folder / JOB).is_file() or (not self.is_folder and self.success.is_file())
        if not is_ours:
            self._check_is_free(overwrite)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes there for the block.

        Raises:
            UsageError: another process does, or a file is in the way.
        """
        with locked_folder(self.folder, "writing", "another OUTPUT"):
            yield
        if not self.is_folder:
            with suppress(OSError):
                self.folder.rmdir()

    def prepare(self, job: Job, overwrite: bool) -> set[int]:
        """Takes up the job that was begun here, or begins this one.

        Returns:
            Numbers of the parts that are there.

        Raises:
            UsageError: what is there is of another job, or of none.
        """
        if overwrite:
            self._clear()
        self._remove_damaged()
        for path in self.folder.glob(".*.parquet.*"):
            # Of a process that was killed while it wrote.
            path.unlink()
        before = self.stored_job()
        if before is None:
            write_atomic(self.folder / JOB, job.model_dump_json(indent=1) + "\n")
        elif differing := before.differences(job):
            raise UsageError(
                f"{self.out} was begun with {_explain(before, job, differing)}; go on with that, "
                "name another output, or add --overwrite"
            )
        return set(self._parts())

    def stored_job(self) -> Job | None:
        """The job that was begun or finished here.

        Raises:
            UsageError: its file was damaged.
        """
        if (self.folder / JOB).is_file():
            content: Any = (self.folder / JOB).read_text()
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
        """What the finished job reported; None where it is not finished, or parts are gone."""
        report = self._read_report()
        if report is None or not (self.is_folder or self.out.is_file()):
            return None
        return None if self.is_folder and len(self._parts()) != report["parts"] else report

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
        """Writes one part, whole or not at all; the same rows are the same bytes."""
        with (
            _writing(self.folder),
            new_file(self.folder / f"part-{number:05d}.parquet") as temporary,
        ):
            pyarrow.parquet.write_table(
                table, temporary, row_group_size=max(1, len(table)), write_page_checksum=True
            )

    def counts(self) -> tuple[int, Counter[str]]:
        """Return the rows of the parts that are there, and how many have each error code."""
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
        """Joins the parts where one file was asked for, and writes the report last."""
        with _writing(self.folder):
            if not self.is_folder:
                _join(list(self._parts().values()), self.out)
            write_atomic(self.success, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        if not self.is_folder:
            self._remove_parts()

    def _parts(self) -> dict[int, Path]:
        parts = {int(m[1]): p for p in self.folder.glob("*") if (m := _PART.fullmatch(p.name))}
        return dict(sorted(parts.items()))

    def _check_is_free(self, overwrite: bool) -> None:
        inside = self.folder.iterdir() if self.folder.is_dir() else ()
        if taken := sorted(path.name for path in inside if path.name != LOCK):
            raise UsageError(
                f"{self.folder} holds {taken[0]!r} and no scores of this command: name another "
                "output, or a folder that is empty"
            )
        if not self.is_folder and self.out.exists() and not overwrite:
            raise UsageError(f"{self.out} exists: name another output, or add --overwrite")

    def _clear(self) -> None:
        """Removes what this command writes, and nothing else."""
        self.success.unlink(missing_ok=True)
        self._remove_parts()
        if not self.is_folder:
            self.out.unlink(missing_ok=True)

    def _remove_parts(self) -> None:
        for path in [self.folder / JOB, *self._parts().values()]:
            path.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tells of a full disk, or a folder that may not be written, what to do about it."""
    try:
        yield
    except OSError as error:
        raise DimmlError(
            f"cannot write into {folder}: {error}; what is there is kept: where it is for lack of "
            "room, free some and run the same command again"
        ) from error


def _explain(before: Job, job: Job, names: Sequence[str]) -> str:
    differences = []
    for name in names:
        old, new = getattr(before, name), getattr(job, name)
        if isinstance(old, dict):
            changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
            differences.append(f"other {name} ({', '.join(changed[:3])})")
        else:
            differences.append(f"{name} {old}, not {new}")
    return " and ".join(differences)


def _join(parts: Sequence[Path], out: Path) -> None:
    with new_file(out) as temporary:
        if out.suffix.lower() != ".parquet":
            write_text(parts, temporary, out.suffix.lower())
            return
        schema = pyarrow.parquet.read_schema(parts[0])
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            for part in parts:
                writer.write_table(pyarrow.parquet.read_table(part))
