"""The digits data set: files, reproducibility, splits and writing."""

from __future__ import annotations

import importlib
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dimml.errors import UsageError
from train.datasets import DATASETS, digits, speech
from train.datasets.speech import Voice

ROOT = Path(__file__).parents[3]
ROWS = {"train": 120, "validation": 100, "test": 100}
MODALITIES = ("audio", "image", "text")
WRITE = f"""
import sys
from pathlib import Path
from train.datasets import digits
digits.write(Path(sys.argv[1]), seed=3, rows={ROWS})
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.write(tmp_path_factory.mktemp("written") / "digits", seed=3, rows=ROWS)


@pytest.fixture(scope="module")
def rows(manifest: Path) -> list[dict[str, str | None]]:
    return pq.read_table(manifest).to_pylist()


@pytest.fixture
def uncached() -> Iterator[None]:
    digits.load_sources.cache_clear()
    digits.number_words.cache_clear()
    yield
    digits.load_sources.cache_clear()
    digits.number_words.cache_clear()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_data_set_table_names_modules_with_a_write_function() -> None:
    assert DATASETS["digits"] == "train.datasets.digits"
    assert all(callable(importlib.import_module(module).write) for module in DATASETS.values())


class TestManifest:
    def test_manifest_has_the_requested_rows(
        self, manifest: Path, rows: list[dict[str, str | None]]
    ) -> None:
        assert manifest.name == "manifest.parquet"
        assert pq.read_schema(manifest).names == ["id", "split", "label", *MODALITIES]
        assert {split: sum(row["split"] == split for row in rows) for split in ROWS} == ROWS
        assert len({row["id"] for row in rows}) == len(rows)
        assert rows[-1]["id"] == "test-000099"

    def test_every_split_has_every_label(self, rows: list[dict[str, str | None]]) -> None:
        for split in ROWS:
            assert {row["label"] for row in rows if row["split"] == split} == set("0123456789")

    def test_manifest_names_exactly_the_written_files(
        self, manifest: Path, rows: list[dict[str, str | None]]
    ) -> None:
        named = {row[m] for row in rows for m in ("audio", "image") if row[m] is not None}
        assert named | {"manifest.parquet"} == set(contents(manifest.parent))

    @pytest.mark.parametrize("split", ROWS)
    @pytest.mark.parametrize("modality", MODALITIES)
    def test_some_cells_of_each_modality_are_empty(
        self, rows: list[dict[str, str | None]], split: str, modality: str
    ) -> None:
        cells = [row[modality] for row in rows if row["split"] == split]
        assert 0.02 < cells.count(None) / len(cells) < 0.25

    def test_every_row_has_a_modality_and_some_only_one(
        self, rows: list[dict[str, str | None]]
    ) -> None:
        counts = {sum(row[m] is not None for m in MODALITIES) for row in rows}
        assert counts == {1, 2, 3}

    def test_row_without_cells_keeps_one_modality(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(digits, "EMPTY_RATE", 1.0)
        written = pq.read_table(digits.write(tmp_path / "digits", rows={"test": 30})).to_pylist()
        assert {sum(row[m] is not None for m in MODALITIES) for row in written} == {1}
        assert all(any(row[m] is not None for row in written) for m in MODALITIES)


class TestFiles:
    def test_clips_are_16_khz_mono_16_bit_and_about_a_second(
        self, manifest: Path, rows: list[dict[str, str | None]]
    ) -> None:
        for row in rows:
            if row["audio"] is not None:
                with wave.open(str(manifest.parent / row["audio"])) as clip:
                    assert clip.getparams()[:3] == (1, 2, 16_000)
                    assert 0.8 <= clip.getnframes() / 16_000 <= 1.4
                    samples = np.frombuffer(clip.readframes(clip.getnframes()), "<i2")
                assert samples.std() > 100

    def test_images_are_32_by_32_grey(
        self, manifest: Path, rows: list[dict[str, str | None]]
    ) -> None:
        for row in rows:
            if row["image"] is not None:
                with Image.open(manifest.parent / row["image"]) as image:
                    assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))
                    assert np.asarray(image).std() > 2

    def test_texts_are_not_blank_and_vary_in_case(self, rows: list[dict[str, str | None]]) -> None:
        texts = [row["text"] for row in rows if row["text"] is not None]
        assert all(text.strip() for text in texts)
        assert any(text.isupper() for text in texts)
        assert any(text.islower() for text in texts)


class TestReproducibility:
    def test_another_process_writes_the_same_bytes(self, manifest: Path, tmp_path: Path) -> None:
        out = tmp_path / "digits"
        subprocess.run([sys.executable, "-c", WRITE, out], cwd=ROOT, check=True)
        assert contents(out) == contents(manifest.parent)

    def test_row_does_not_depend_on_other_rows(self, manifest: Path, tmp_path: Path) -> None:
        small = digits.write(tmp_path / "digits", seed=3, rows={"test": 20})
        all_files = contents(manifest.parent)
        files = contents(small.parent)
        files.pop("manifest.parquet")
        assert len(files) > 20
        assert files == {name: all_files[name] for name in files}
        assert (
            pq.read_table(small).to_pylist()
            == pq.read_table(manifest, filters=[("id", "<", "test-000020")]).to_pylist()[-20:]
        )

    def test_another_seed_writes_other_rows(self, manifest: Path, tmp_path: Path) -> None:
        other = digits.write(tmp_path / "digits", seed=4, rows={"test": 20})
        files = contents(other.parent)
        all_files = contents(manifest.parent)
        common = files.keys() & all_files.keys() - {"manifest.parquet"}
        assert common
        assert all(files[name] != all_files[name] for name in common)

    def test_speech_does_not_depend_on_earlier_speech(self) -> None:
        speakers = [name for names in digits.SPEAKERS.values() for name in names]
        voices = [Voice("roa/fr", name, 160, 50, 50) for name in speakers]
        forwards = [speech.synthesize("quatre", voice).tobytes() for voice in voices]
        backwards = [speech.synthesize("quatre", voice).tobytes() for voice in reversed(voices)]
        assert forwards == backwards[::-1]


class TestSplits:
    def test_every_source_image_is_in_one_split(self) -> None:
        sources = digits.split_sources(0)
        indices = np.concatenate([part for split in sources.values() for part in split.values()])
        assert sorted(indices) == list(range(1797))

    def test_sources_are_divided_label_by_label(self) -> None:
        labels = digits.load_sources()[1]
        for by_label in digits.split_sources(0).values():
            assert all((labels[part] == label).all() for label, part in by_label.items())
            sizes = [len(part) for part in by_label.values()]
            assert max(sizes) - min(sizes) <= 6

    def test_seed_chooses_the_sources(self) -> None:
        first, second = (digits.split_sources(seed)["test"][7] for seed in (0, 1))
        assert set(first) != set(second)

    def test_no_speaker_is_in_two_splits(self) -> None:
        speakers = [name for names in digits.SPEAKERS.values() for name in names]
        assert len(speakers) == len(set(speakers)) >= 60

    def test_espeak_ng_knows_all_speakers_and_languages(self) -> None:
        folder = speech.data_folder()
        variants = {path.name for path in (folder / "voices" / "!v").iterdir()}
        assert {name for names in digits.SPEAKERS.values() for name in names} <= variants
        assert len(digits.LANGUAGES) >= 8
        assert all((folder / "lang" / name).is_file() for name in digits.LANGUAGES.values())

    @pytest.mark.parametrize("split", digits.SPLITS)
    def test_rows_use_the_speakers_and_sources_of_their_split(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: str
    ) -> None:
        speakers, drawn = set(), []

        def recorded_speech(_word: str, voice: Voice) -> np.ndarray:
            speakers.add(voice.speaker)
            return np.full(10_000, 1_000, np.int16)

        def recorded_image(source: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
            drawn.append(source.tobytes())
            return np.zeros((32, 32), np.uint8)

        monkeypatch.setattr(digits, "synthesize", recorded_speech)
        monkeypatch.setattr(digits, "draw_image", recorded_image)
        digits.write(tmp_path / "digits", rows={split: 60})
        pixels = digits.load_sources()[0]
        indices = np.concatenate(list(digits.split_sources(0)[split].values()))
        assert len(speakers) > 5
        assert speakers <= set(digits.SPEAKERS[split])
        assert len(drawn) > 30
        assert set(drawn) <= {pixels[index].tobytes() for index in indices}


class TestWriting:
    def test_folder_with_content_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("notes")
        with pytest.raises(UsageError, match="already exists; remove it, or choose another"):
            digits.write(tmp_path, rows={"test": 1})
        assert contents(tmp_path) == {"notes.txt": b"notes"}

    def test_existing_file_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "digits").write_text("notes")
        with pytest.raises(UsageError, match="already exists"):
            digits.write(tmp_path / "digits", rows={"test": 1})
        assert contents(tmp_path) == {"digits": b"notes"}

    def test_empty_folder_is_filled(self, tmp_path: Path) -> None:
        out = tmp_path / "digits"
        out.mkdir()
        assert pq.read_table(digits.write(out, rows={"test": 1})).num_rows == 1

    def test_missing_parent_folders_are_created(self, tmp_path: Path) -> None:
        out = tmp_path / "data" / "digits"
        digits.write(out, rows={"test": 1})
        assert list(out.parent.iterdir()) == [out]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"rows": {"dev": 1}}, "unknown split dev; choose from train, validation, test"),
            ({"rows": {"test": -1}}, "0 or more"),
            ({"seed": -1}, "0 or more"),
        ],
    )
    def test_arguments_out_of_range_are_rejected(
        self, tmp_path: Path, arguments: dict[str, object], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            digits.write(tmp_path / "digits", **arguments)
        assert list(tmp_path.iterdir()) == []

    def test_interrupt_inside_a_row_leaves_no_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def interrupted(_word: str, _voice: Voice) -> np.ndarray:
            assert len(list(tmp_path.iterdir())) == 1
            raise KeyboardInterrupt

        monkeypatch.setattr(digits, "synthesize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            digits.write(tmp_path / "digits", rows={"test": 50})
        assert list(tmp_path.iterdir()) == []

    def test_interrupt_between_rows_cancels_the_remaining_rows(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        drawn = []

        def interrupted(items: Iterator[object], *_: object) -> Iterator[object]:
            yield next(items)
            raise KeyboardInterrupt

        def counted(source: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
            drawn.append(source)
            return np.zeros((32, 32), np.uint8)

        monkeypatch.setattr(digits, "track", interrupted)
        monkeypatch.setattr(digits, "draw_image", counted)
        with pytest.raises(KeyboardInterrupt):
            digits.write(tmp_path / "digits", rows={"train": 2_000})
        assert len(drawn) < 1_000
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.usefixtures("uncached")
    @pytest.mark.parametrize("module", ["espeakng_loader", "num2words", "sklearn.datasets"])
    def test_missing_package_error_names_the_extra_demo(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=rf"{module}.*pip install -e '\.\[train,demo\]'"):
            digits.write(tmp_path / "digits", rows={"test": 5})
        assert list(tmp_path.iterdir()) == []
