"""The store of features: what it finds again, after damage and beside other processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PretrainedFolder
from tests.train.data.frozen import features_of, make_encoder, split_of, texts
from train.data.prepare import prepare
from train.data.store import FeatureStore, open_store, remove_old_stores
from train.recipe import Recipe


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def vector(number: int) -> np.ndarray:
    return np.full(3, number, np.float32)


def fill(folder: Path, numbers: range) -> FeatureStore:
    store = FeatureStore(folder)
    for number in numbers:
        store.add(key(number), vector(number))
    store.flush()
    return store


def found(folder: Path, numbers: range) -> list[int]:
    store = FeatureStore(folder)
    numbers_found = [number for number in numbers if key(number) in store]
    for number in numbers_found:
        np.testing.assert_array_equal(store[key(number)], vector(number))
    return numbers_found


class TestFiles:
    def test_vectors_are_found_before_and_after_the_flush(self, tmp_path: Path) -> None:
        store = FeatureStore(tmp_path / "store")
        store.add(key(1), vector(1))
        assert store[key(1)].tolist() == [1, 1, 1]
        assert not (tmp_path / "store").exists()
        store.flush()
        store.flush()
        assert store[key(1)].tolist() == [1, 1, 1]
        assert key(2) not in store
        assert len(list((tmp_path / "store").iterdir())) == 1

    def test_file_is_written_after_some_vectors_or_seconds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("train.data.store.FLUSH_VECTORS", 4)
        store = FeatureStore(tmp_path)
        for number in range(10):
            store.add(key(number), vector(number))
        assert found(tmp_path, range(10)) == list(range(8))
        monkeypatch.setattr("train.data.store.FLUSH_SECONDS", -1.0)
        store.add(key(10), vector(10))
        assert found(tmp_path, range(11)) == list(range(11))

    def test_killed_process_loses_only_what_was_not_written(self, tmp_path: Path) -> None:
        script = (
            "import os, pathlib, signal, sys\n"
            "import numpy as np\n"
            "import train.data.store as s\n"
            "s.FLUSH_VECTORS = 4\n"
            "store = s.FeatureStore(pathlib.Path(sys.argv[1]))\n"
            "for number in range(10):\n"
            "    store.add(number.to_bytes(16, 'big'), np.full(3, number, np.float32))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=os.environ)
        assert killed.returncode == -signal.SIGKILL
        assert found(tmp_path, range(10)) == list(range(8))

    def test_two_writers_of_a_folder_keep_all_vectors(self, tmp_path: Path) -> None:
        stores = [FeatureStore(tmp_path) for _ in range(2)]
        for start in range(0, 40, 10):
            for number in range(start, start + 10):
                # Both write every third vector.
                for store in stores if number % 3 == 0 else [stores[number % 2]]:
                    store.add(key(number), vector(number))
            for store in stores:
                store.flush()
        assert found(tmp_path, range(41)) == list(range(40))


@pytest.mark.parametrize("damage", ["empty", "short", "shorter by one", "garbage", "other table"])
def test_damaged_file_is_removed_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    fill(tmp_path, range(5))
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "short": content[:100],
            "shorter by one": content[:-1],
            "garbage": b"garbage" * 100,
            "other table": content.replace(b"vector", b"factor"),
        }[damage]
    )
    fill(tmp_path, range(5, 8))
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"{path} is damaged; removed, its features are computed again"
    assert found(tmp_path, range(9)) == [5, 6, 7]
    assert capsys.readouterr().err == ""


def test_run_after_a_damage_encodes_again(
    tmp_path: Path, pretrained_folder: PretrainedFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    bert = pretrained_folder("text", "bert")
    before = split_of(make_encoder(bert, "text", tmp_path), texts(20), tmp_path)
    [path] = tmp_path.glob("features-*/*.arrow")
    path.write_bytes(path.read_bytes()[:-40])
    encoder = make_encoder(bert, "text", tmp_path)
    after = split_of(encoder, texts(20), tmp_path, settings="other")
    assert encoder.encoded == 20
    assert capsys.readouterr().err.count("is damaged") == 1
    np.testing.assert_array_equal(features_of(before), features_of(after))


class TestOldStores:
    def use(self, cache: Path, model: str, *identities: str) -> list[str]:
        """Open stores of a model, and return the stores that are left."""
        stores = []
        for identity in identities:
            store = open_store(cache, model, identity)
            store.add(key(1), vector(1))
            store.flush()
            stores.append(store)
        remove_old_stores(cache, stores)
        return sorted(path.name.removeprefix("features-") for path in cache.iterdir())

    def test_stores_of_a_model_beyond_the_last_three_are_removed(self, tmp_path: Path) -> None:
        for identity in ("a", "b", "c", "a"):
            self.use(tmp_path, "org/bert", identity)
        assert self.use(tmp_path, "org/bert", "d") == ["org_bert-a", "org_bert-c", "org_bert-d"]

    def test_stores_of_models_with_longer_names_stay(self, tmp_path: Path) -> None:
        for identity in ("a", "b", "c"):
            self.use(tmp_path, "bert-base", identity)
        assert len(self.use(tmp_path, "bert", "d", "e")) == 5

    def test_stores_in_use_stay_however_many(self, tmp_path: Path) -> None:
        self.use(tmp_path, "bert", "z")
        used = [f"bert-{identity}" for identity in "abcde"]
        assert self.use(tmp_path, "bert", *"abcde") == used
        assert self.use(tmp_path, "bert", *"abcde") == used

    def test_opening_a_store_creates_nothing(self, tmp_path: Path) -> None:
        remove_old_stores(tmp_path / "cache", [open_store(tmp_path / "cache", "bert", "a")])
        assert list(tmp_path.iterdir()) == []


class TestIdentity:
    def store(self, data: Path, folder: Path, **modality: Any) -> str:
        """Return the name of the store that a recipe uses."""
        encoder = {"pretrained": str(folder), **modality.pop("encoder", {})}
        note = {"kind": "text", "encoder": encoder, **modality}
        recipe = Recipe.model_validate({"name": "a", "data": data, "modalities": {"note": note}})
        [frozen] = prepare(recipe, data.parent / "cache").frozen.values()
        return frozen.store.folder.name

    def test_model_preprocessing_tokenizer_and_pooling_have_stores_of_their_own(
        self, tmp_path: Path, pretrained_folder: PretrainedFolder
    ) -> None:
        data, bert = tmp_path / "data.csv", pretrained_folder("text", "bert")
        lines = [f"{s},{v},it is {v}" for s in ("train", "validation") for v in ("red", "blue") * 2]
        data.write_text("\n".join(["split,label,note", *lines]))
        copies = [shutil.copytree(bert, tmp_path / str(n) / bert.name) for n in range(3)]
        tokenizer = copies[1] / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text().replace('"query"', '"answer"'))
        weights = copies[2] / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        first = self.store(data, bert)
        assert self.store(data, copies[0]) == first
        others = [
            self.store(data, copies[1]),
            self.store(data, copies[2]),
            self.store(data, pretrained_folder("text", "roberta")),
            self.store(data, bert, preprocessing={"max_length": 8}),
            self.store(data, bert, preprocessing={"prompt": "query: "}),
            self.store(data, bert, encoder={"pooling": "cls"}),
        ]
        assert len({first, *others}) == 7
        assert self.store(data, bert, encoder={"views": 2}) == first
