"""Spoken and written digits from published files: pairs, splits, writing and errors."""

from __future__ import annotations

import gzip
import os
import struct
import wave
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dimml.errors import UsageError
from dimml.table import TableSource, read_rows
from tests.conftest import Dimml
from train.datasets import avmnist

SPEAKERS = ("ann", "bob", "cleo", "dan", "eve", "finn")
PICTURES_PER_DIGIT = 15
SPLIT_OF_SEED_0 = {**dict.fromkeys(SPEAKERS[:4], "train"), "eve": "validation", "finn": "test"}

Rows = list[dict[str, str]]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_recording(path: Path, samples: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(2 * samples))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two recordings of each digit by six speakers, and fifteen pictures of each digit."""
    root = tmp_path / "root"
    recordings = root / avmnist.RECORDINGS
    recordings.mkdir(parents=True)
    for digit in range(10):
        for place, speaker in enumerate(SPEAKERS):
            for number in range(2):
                path = recordings / f"{digit}_{speaker}_{number}.wav"
                write_recording(path, 100 + 12 * digit + 2 * place + number)
    (root / "mnist").mkdir()
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), PICTURES_PER_DIGIT))
    pixels = np.zeros((len(labels), 28, 28))
    pixels[:, 0, 0], pixels[:, 27, 0] = np.arange(len(labels)), labels
    write_idx(root / avmnist.PICTURES, pixels)
    write_idx(root / avmnist.PICTURE_LABELS, labels)
    return root


def write_rows(root: Path, seed: int = 0) -> tuple[Path, Rows]:
    manifest = avmnist.write(root, root.parent / f"out-{seed}", seed=seed)
    return manifest.parent, pq.read_table(manifest).to_pylist()


def pairs(rows: Rows) -> dict[str, str]:
    return {row["id"]: row["image"] for row in rows}


class TestSamples:
    def test_each_recording_is_one_row_with_its_own_copy(self, root: Path) -> None:
        out, rows = write_rows(root)
        assert list(rows[0]) == ["id", "split", "label", "audio", "image"]
        assert len(rows) == len({row["id"] for row in rows}) == 120
        for row in rows:
            assert row["audio"] == f"audio/{row['id']}.wav"
            published = root / avmnist.RECORDINGS / f"{row['id']}.wav"
            assert (out / row["audio"]).read_bytes() == published.read_bytes()
            assert row["label"] == row["id"][0]

    def test_picture_shows_the_digit_of_the_recording(self, root: Path) -> None:
        out, rows = write_rows(root)
        for row in rows:
            with Image.open(out / row["image"]) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))
                pixels = np.asarray(image)
            assert str(pixels[27, 0]) == row["label"]
            assert row["image"] == f"image/{pixels[0, 0]:05d}.png"

    def test_no_picture_is_used_twice(self, root: Path) -> None:
        _, rows = write_rows(root)
        assert len({row["image"] for row in rows}) == len(rows)

    def test_folder_holds_nothing_but_the_named_files(self, root: Path) -> None:
        out, rows = write_rows(root)
        files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        named = {row[modality] for row in rows for modality in ("audio", "image")}
        assert files == named | {"manifest.parquet"}

    def test_manifest_is_read_after_the_root_is_gone_and_the_folder_is_moved(
        self, root: Path
    ) -> None:
        out, _ = write_rows(root)
        moved = out.rename(out.with_name("moved"))
        root.rename(root.with_name("gone"))
        kinds = {"audio": "audio", "image": "image"}
        rows = list(read_rows(TableSource(moved / "manifest.parquet", kinds)))
        assert all(path.is_file() for row in rows for path in row.sample.values())

    def test_other_files_beside_the_recordings_are_ignored(self, root: Path) -> None:
        for name in ("notes.txt", "._0_ann_0.wav", "0_ann_00.wav", "10_ann_0.wav"):
            (root / avmnist.RECORDINGS / name).write_bytes(b"")
        assert len(write_rows(root)[1]) == 120


class TestSeed:
    def test_first_seed_splits_the_sorted_speakers(self, root: Path) -> None:
        _, rows = write_rows(root)
        assert {row["id"].split("_")[1]: row["split"] for row in rows} == SPLIT_OF_SEED_0
        assert Counter(row["split"] for row in rows) == {"train": 80, "validation": 20, "test": 20}

    def test_six_seeds_test_and_validate_every_speaker_once(self) -> None:
        splits = [avmnist.split_speakers(SPEAKERS, seed) for seed in range(6)]
        for split, count in avmnist.SPEAKERS_PER_SPLIT.items():
            speakers = Counter(s for by_name in splits for s in by_name if by_name[s] == split)
            assert speakers == dict.fromkeys(SPEAKERS, count)
        assert splits[1] == avmnist.split_speakers(reversed(SPEAKERS), 7)

    def test_seeds_0_to_5_pair_alike_and_seed_6_pairs_anew(self, root: Path) -> None:
        first, fifth, sixth = (write_rows(root, seed)[1] for seed in (0, 5, 6))
        assert pairs(first) == pairs(fifth) != pairs(sixth)
        assert [row["split"] for row in first] == [row["split"] for row in sixth]
        assert {row["id"]: row["split"] for row in first} != {r["id"]: r["split"] for r in fifth}

    def test_same_seed_writes_the_same_bytes(self, root: Path) -> None:
        folders = [avmnist.write(root, root.parent / name, seed=3).parent for name in "ab"]
        first, second = (
            {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
            for folder in folders
        )
        assert first == second

    def test_negative_seed_is_rejected(self, root: Path) -> None:
        with pytest.raises(UsageError, match="0 or more"):
            avmnist.write(root, root.parent / "out", seed=-1)


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).rename(root / "elsewhere")


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:size])


def replace(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def array(name: str, shape: tuple[int, ...], value: int = 0) -> Callable[[Path], object]:
    return lambda root: write_idx(root / name, np.full(shape, value))


PICTURES, LABELS, SPEECH = avmnist.PICTURES, avmnist.PICTURE_LABELS, avmnist.RECORDINGS
PUBLISHED_SPEECH = "published in the Free Spoken Digit Dataset"
PUBLISHED_PICTURES = "published in MNIST, the database of handwritten digits"
HEADER = struct.pack(">4B3I", 0, 0, 8, 3, 150, 28, 28)
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no recordings": (remove(SPEECH), f"folder .*{SPEECH} is missing.*{PUBLISHED_SPEECH}"),
    "no pictures": (remove(PICTURES), f"file .*{PICTURES} is missing.*{PUBLISHED_PICTURES}"),
    "no labels": (remove(LABELS), f"file .*{LABELS} is missing.*{PUBLISHED_PICTURES}"),
    "one recording less": (
        remove(f"{SPEECH}/3_dan_0.wav"),
        r"1 of 120 recordings are .*3_dan_0.wav; ",
    ),
    "cut in the gzip header": (cut(PICTURES, 5), f"{PICTURES} is damaged.*ended before"),
    "cut in the data": (cut(PICTURES, 300), f"{PICTURES} is damaged.*ended before"),
    "cut in the checksum": (cut(LABELS, -3), f"{LABELS} is damaged.*ended before"),
    "empty file": (cut(LABELS, 0), "starts with nothing instead of 00000801"),
    "not gzip": (replace(PICTURES, HEADER), "Not a gzipped file"),
    "wrong magic": (array(PICTURES, (150,)), "starts with 00000801 instead of 00000803"),
    "header alone": (replace(PICTURES, gzip.compress(HEADER[:9])), "ends within its header"),
    "too few bytes": (replace(PICTURES, gzip.compress(HEADER)), "150 x 28 x 28 bytes, but .* 0"),
    "too many bytes": (
        replace(PICTURES, gzip.compress(HEADER + bytes(117_601))),
        "declares 150 x 28 x 28 bytes, but it holds 117601",
    ),
    "huge sizes": (
        replace(PICTURES, gzip.compress(HEADER[:4] + b"\xff" * 12)),
        "declares 4294967295 x 4294967295 x 4294967295 bytes",
    ),
    "other pictures": (array(PICTURES, (150, 32, 30)), "32 x 30 pixels; expected 28 x 28"),
    "more labels": (array(LABELS, (151,)), "150 pictures and .* has 151 labels"),
    "label 10": (array(LABELS, (150,), 10), "has the label 10; labels are 0 to 9"),
    "few pictures of a digit": (array(LABELS, (150,), 4), "digit 0 has 12 recordings .* 0 picture"),
    "truncated recording": (
        cut(f"{SPEECH}/9_finn_1.wav", 100),
        r"9_finn_1.wav is damaged: .*truncated.*; download it again",
    ),
    "recording of no samples": (cut(f"{SPEECH}/0_ann_0.wav", 44), "0_ann_0.wav is damaged"),
    "empty recording": (cut(f"{SPEECH}/0_ann_0.wav", 0), "0_ann_0.wav is damaged: .*empty"),
    "page as a recording": (
        replace(f"{SPEECH}/5_bob_1.wav", b"<!doctype html><title>404</title>"),
        "5_bob_1.wav is damaged: expected a recording, but the file is HTML",
    ),
}


class TestErrors:
    @pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
    def test_damaged_root_is_rejected_and_nothing_is_written(
        self, root: Path, damage: Callable[[Path], object], message: str
    ) -> None:
        damage(root)
        with pytest.raises(UsageError, match=message):
            avmnist.write(root, root.parent / "out")
        assert list(root.parent.iterdir()) == [root]

    def test_root_that_does_not_exist_is_rejected(self, root: Path) -> None:
        with pytest.raises(UsageError, match=r"nowhere is not a folder; ROOT is the folder"):
            avmnist.write(root / "nowhere", root.parent / "out")

    def test_recordings_of_five_speakers_are_rejected(self, root: Path) -> None:
        for path in (root / SPEECH).glob("*_bob_*"):
            path.unlink()
        with pytest.raises(UsageError, match=r"5 speakers \(ann, cleo, .*needs 6; .*7_theo_0\.wav"):
            avmnist.write(root, root.parent / "out")

    def test_folder_with_content_is_not_changed(self, root: Path) -> None:
        out = root.parent / "out"
        out.mkdir()
        (out / "notes.txt").write_text("notes")
        with pytest.raises(UsageError, match="already exists; remove it, or choose another"):
            avmnist.write(root, out)
        assert [path.name for path in out.iterdir()] == ["notes.txt"]

    def test_interrupt_leaves_no_folder(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            assert len(list(root.parent.iterdir())) == 2
            raise KeyboardInterrupt

        monkeypatch.setattr(avmnist, "write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            avmnist.write(root, root.parent / "out")
        assert list(root.parent.iterdir()) == [root]


def test_command_writes_and_prints_the_manifest(root: Path, dimml: Dimml) -> None:
    manifest = root.parent / "new" / "out" / "manifest.parquet"
    code, printed, _ = dimml("data", "avmnist", root, manifest.parent, "--seed", 4)
    assert code == 0
    assert printed == f"{manifest}\n"
    assert pq.read_table(manifest).to_pylist() == write_rows(root, 4)[1]


def test_published_files_make_3000_samples(tmp_path: Path) -> None:
    published = Path(os.environ.get("DIMML_TEST_DATA", ""), "avmnist")
    if "DIMML_TEST_DATA" not in os.environ or not published.is_dir():
        pytest.skip("DIMML_TEST_DATA does not name a folder that holds the published avmnist files")
    rows = pq.read_table(avmnist.write(published, tmp_path / "out")).to_pylist()
    assert Counter((row["split"], row["label"]) for row in rows) == {
        (split, str(digit)): 50 * count
        for split, count in avmnist.SPEAKERS_PER_SPLIT.items()
        for digit in range(10)
    }
    assert len({row["image"] for row in rows}) == 3000
