from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dimml.errors import ManifestError
from dimml.modalities import KINDS
from dimml.table import Row
from train.data.augment import Augmentation
from train.data.cache import cached_split
from train.data.loader import Collate, EpochSampler, SplitDataset
from train.methods.base import UNLABELLED

LABELS = ("high", "low")


def kinds() -> dict[str, object]:
    audio = {"sample_rate": 8000, "seconds": None, "n_fft": 256}
    return {
        "call": KINDS["audio"]("call", audio),
        "shot": KINDS["image"]("shot", {"size": [4, 4], "channels": 1}),
    }


def tone(seconds: float) -> np.ndarray:
    return np.sin(np.arange(int(8000 * seconds)) / 5).astype(np.float32)


def row(number: int, label: str | None = "high", **sample: object) -> Row:
    return Row(str(number), "train", label, {"call": None, "shot": None, **sample})


def test_cached_samples_equal_preprocessed_samples(tmp_path: Path) -> None:
    shot = np.arange(16, dtype=np.uint8).reshape(4, 4)
    rows = [row(0, call=tone(0.5)), row(1, "low", call=tone(0.9), shot=shot), row(2, shot=shot)]
    split = cached_split(rows, kinds(), LABELS, "train", tmp_path, "")

    assert split.labels.tolist() == [0, 1, 0]
    assert [sorted(split[index]) for index in range(3)] == [["call"], ["call", "shot"], ["shot"]]
    for index, original in enumerate(rows):
        for name, arrays in split[index].items():
            kind = kinds()[name]
            for key, array in kind.preprocess(kind.decode(original.sample[name])).items():
                np.testing.assert_array_equal(arrays[key], array)


def test_second_run_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(0, call=tone(0.5))]
    cached_split(rows, kinds(), LABELS, "train", tmp_path, "")
    monkeypatch.setattr("train.data.cache._write", lambda *_: pytest.fail("decoded again"))
    assert len(cached_split(rows, kinds(), LABELS, "train", tmp_path, "")) == 1


def test_changed_file_or_setting_is_decoded_again(tmp_path: Path) -> None:
    path = tmp_path / "shot.png"
    shot = kinds()["shot"]
    path.write_bytes(shot.example())
    rows = [row(0, shot=path)]
    for settings in ("a", "b"):
        cached_split(rows, kinds(), LABELS, "train", tmp_path / "cache", settings)
    path.write_bytes(shot.example() + b"\0")
    cached_split(rows, kinds(), LABELS, "train", tmp_path / "cache", "a")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_versions_last_used_are_kept_for_each_split(tmp_path: Path) -> None:
    def use(settings: str, name: str = "train") -> set[Path]:
        before = set(tmp_path.iterdir())
        cached_split([row(0, call=tone(0.1))], kinds(), LABELS, name, tmp_path, settings)
        return set(tmp_path.iterdir()) - before

    first, second = use("1"), use("2")
    others = use("1", "validation") | use("3")
    assert use("1") == set()
    latest = use("4")
    assert set(tmp_path.iterdir()) == first | others | latest
    assert not second & set(tmp_path.iterdir())


def test_unreadable_cell_is_absent_and_reported_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row(7, call=b"not audio", shot=np.zeros((4, 4), np.uint8)),
        row(8, call=b"not audio either"),
    ]
    for _ in range(2):
        split = cached_split(rows, kinds(), LABELS, "train", tmp_path, "")
        assert list(split[0]) == ["shot"]
        assert len(split) == 1
        assert (
            "unreadable cells that count as absent: 2; the first is in row 7:"
            in capsys.readouterr().err
        )


def test_split_without_a_readable_row_is_rejected_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no row of the test split can be read; the first: 7:"):
        cached_split([row(7, call=b"junk")], kinds(), LABELS, "test", tmp_path / "a" / "b", "")
    assert list(tmp_path.iterdir()) == []


def test_recordings_of_a_training_batch_are_cut_to_the_shortest_and_not_padded(
    tmp_path: Path,
) -> None:
    rows = [row(number, call=tone(0.4 + 0.1 * number)) for number in range(4)]
    split = cached_split(rows, kinds(), LABELS, "train", tmp_path, "")
    samples = [SplitDataset(split, {}, {}, 0)[key] for key in EpochSampler(4, 0, shuffle=False)]

    [group] = Collate(kinds(), training=True, cut=["call"])(samples).inputs["call"]
    assert group.rows.tolist() == [0, 1, 2, 3]
    assert group.inputs["power"].shape[2] == split[0]["call"]["power"].shape[1]

    groups = Collate(kinds(), training=False)(samples).inputs["call"]
    assert [g.inputs["power"].shape[2] for g in groups] == [
        split[index]["call"]["power"].shape[1] for index in range(4)
    ]


def test_unlabelled_row_is_kept_and_repeated_row_is_augmented_again(
    tmp_path: Path,
) -> None:
    rows = [row(0, call=tone(0.5)), row(1, None, call=tone(0.9))]
    split = cached_split(rows, kinds(), LABELS, "train", tmp_path, "")
    assert split.labels.tolist() == [0, UNLABELLED]
    data = SplitDataset(split, kinds(), {"call": Augmentation(strength=1)}, 0, np.array([1, 0, 0]))
    (_, other), (first, label), (second, _) = (data[0, index] for index in range(3))
    assert (other, label) == (UNLABELLED, 0)
    assert (first["call"]["power"] != second["call"]["power"]).any()


def test_cell_that_is_too_long_for_a_path_counts_as_absent(tmp_path: Path) -> None:
    rows = [row(0, call=tone(0.5), shot=tmp_path / ("x" * 350)), row(1, "low", call=tone(0.5))]
    split = cached_split(rows, kinds(), LABELS, "train", tmp_path, "")
    assert split.present.tolist() == [[True, False], [True, False]]
    assert "File name too long" in split.problems[0]
    assert len(split.problems[0]) < 300
