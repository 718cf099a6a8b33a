from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from dimml.bundle import (
    CLASSIFIER,
    EVALUATION,
    MANIFEST,
    Bundle,
    Manifest,
    ModalitySpec,
    file_entry,
    new_bundle,
)
from dimml.cli import build
from dimml.errors import BundleError, UsageError
from dimml.modalities import Limits
from dimml.names import RESERVED_NAMES, SCORE_SUFFIXES, reserved_name_problem
from serving.offline.scorer import score_schema

GRAPHS = ("front.onnx", "classifier.onnx")
GRAPH = helper.make_model(
    helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", [], [])
).SerializeToString()


def write_bundle(folder: Path, **changes: Any) -> Path:
    """Write a bundle with one image modality. The tests never run its graphs."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in GRAPHS:
        (folder / file).write_bytes(GRAPH)
    spec = ModalitySpec(
        kind="image",
        graph="front.onnx",
        inputs=("pixels",),
        preprocessing={"size": [8, 8]},
        encoder="small",
    )
    manifest = Manifest(
        name="tiny",
        created="2026-01-01T00:00:00Z",
        labels=("no", "yes"),
        feature_dim=4,
        modalities={"front": spec},
        files={file: file_entry(folder / file) for file in GRAPHS},
    )
    document = manifest.model_dump(mode="json") | changes
    (folder / MANIFEST).write_text(json.dumps(document))
    return folder


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def load_error(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder)
    return caught.value.message


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


class TestLoad:
    def test_bundle_id_is_name_and_manifest_digest(self, bundle: Path) -> None:
        digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
        loaded = Bundle.load(str(bundle))
        assert loaded.id == f"tiny@{digest[:12]}"
        assert loaded.manifest.labels == ("no", "yes")

    def test_kinds_have_the_preprocessing_and_the_limits(self, bundle: Path) -> None:
        [(name, kind)] = Bundle.load(bundle).kinds(Limits(pixels=64)).items()
        assert (name, kind.limits.pixels) == ("front", 64)
        assert kind.preprocess(kind.decode(kind.example()))["pixels"].shape == (3, 8, 8)

    def test_bundle_id_does_not_depend_on_reports(self, bundle: Path) -> None:
        before = Bundle.load(bundle).id
        (bundle / "evaluation.json").write_text("{}")
        assert Bundle.load(bundle).id == before

    def test_unknown_preprocessing_key_is_rejected(self, bundle: Path) -> None:
        edit_manifest(
            bundle, lambda m: m["modalities"]["front"]["preprocessing"].update(sise=[8, 8])
        )
        with pytest.raises(BundleError, match=r"front: invalid preprocessing(.|\n)*sise"):
            Bundle.load(bundle).kinds()


class TestInvalidBundles:
    @pytest.mark.parametrize("name", ["none", "empty", "file"])
    def test_path_without_a_bundle_is_rejected(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").touch()
        assert "is not a bundle" in (message := load_error(tmp_path / name))
        assert "dimml export RUN BUNDLE" in message

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"{}", b'{"format": "other"}'],
        ids=[
            "empty",
            "truncated",
            "not UTF-8",
            "deep",
            "list",
            "null",
            "no format",
            "other format",
        ],
    )
    def test_malformed_manifest_is_rejected(self, bundle: Path, content: bytes) -> None:
        (bundle / MANIFEST).write_bytes(content)
        assert f"{MANIFEST} is not" in load_error(bundle)

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_unknown_format_version_is_rejected(self, bundle: Path, version: object) -> None:
        edit_manifest(bundle, lambda m: m.update(version=version))
        assert f"format version {version}; this dimml reads version 1" in load_error(bundle)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(colour="red"), "colour"),
            (lambda m: m["modalities"]["front"].update(colour="red"), "modalities.front.colour"),
            (lambda m: m.pop("labels"), "labels"),
            (lambda m: m.update(labels=["yes"]), "labels"),
            (lambda m: m.update(labels=["yes", "yes"]), "labels must be distinct"),
            (lambda m: m.update(feature_dim=0), "feature_dim"),
            (lambda m: m.update(modalities={}), "modalities"),
            (lambda m: m.update(modalities={"Front!": m["modalities"]["front"]}), "Front!"),
            (lambda m: m["modalities"]["front"].update(kind="smell"), "known: audio, image, text"),
            (lambda m: m.update(precision="fp8"), "precision"),
            (lambda m: m["files"].pop("front.onnx"), "no checksum for front.onnx"),
            (lambda m: m["files"]["front.onnx"].update(sha256="00"), "files.front.onnx.sha256"),
        ],
        ids=[
            "unknown key",
            "unknown key in a modality",
            "no labels",
            "one label",
            "duplicate label",
            "no features",
            "no modalities",
            "invalid modality name",
            "unknown kind",
            "unknown precision",
            "file without entry",
            "invalid checksum",
        ],
    )
    def test_invalid_manifest_is_rejected(
        self, bundle: Path, change: Callable[[dict[str, Any]], Any], message: str
    ) -> None:
        edit_manifest(bundle, change)
        assert message in load_error(bundle)

    @pytest.mark.parametrize(
        "name", ["../x.onnx", "/etc/passwd", "..", ".", "a/b", "a\\b", ".x", ""]
    )
    def test_path_outside_the_folder_is_rejected(self, bundle: Path, name: str) -> None:
        for change in (
            lambda m: m["files"].update({name: m["files"]["front.onnx"]}),
            lambda m: m["modalities"]["front"].update(graph=name),
            lambda m: m["modalities"]["front"].update(assets={"tokenizer.json": name}),
            lambda m: m.update(classifier=name),
        ):
            edit_manifest(write_bundle(bundle), change)
            assert "should match pattern" in load_error(bundle)

    def test_link_instead_of_a_file_is_rejected(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "front.onnx").rename(tmp_path / "outside.onnx")
        (bundle / "front.onnx").symlink_to(tmp_path / "outside.onnx")
        assert "front.onnx is missing or is not a plain file" in load_error(bundle)

    def test_missing_file_is_rejected(self, bundle: Path) -> None:
        (bundle / "classifier.onnx").unlink()
        assert "classifier.onnx is missing" in load_error(bundle)

    def test_link_instead_of_the_manifest_is_rejected(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / MANIFEST).rename(tmp_path / "outside.json")
        (bundle / MANIFEST).symlink_to(tmp_path / "outside.json")
        assert f"{MANIFEST} is a link" in load_error(bundle)

    @pytest.mark.parametrize("graph", GRAPHS)
    def test_empty_graph_is_rejected(self, bundle: Path, graph: str) -> None:
        (bundle / graph).write_bytes(b"")
        edit_manifest(
            bundle, lambda m: m["files"].update({graph: file_entry(bundle / graph).model_dump()})
        )
        assert f"{graph} is not an ONNX model" in load_error(bundle)

    @pytest.mark.parametrize("content", [GRAPH.swapcase(), GRAPH + b" ", b""])
    def test_changed_file_is_rejected(self, bundle: Path, content: bytes) -> None:
        (bundle / "front.onnx").write_bytes(content)
        assert "front.onnx is not the file that was exported" in load_error(bundle)


def test_bundle_is_replaced(bundle: Path) -> None:
    with new_bundle(bundle) as folder:
        write_bundle(folder, name="new")
    assert Bundle.load(bundle).manifest.name == "new"
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("precious.txt", "x"),
        (MANIFEST, "{}"),
        (MANIFEST, '{"name": "web page"}'),
        (MANIFEST, "["),
    ],
)
def test_folder_without_a_bundle_is_not_replaced(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(UsageError, match="is not a bundle"), new_bundle(tmp_path):
        pass
    assert (tmp_path / file).read_text() == content


ALL_RESERVED = {name for names in RESERVED_NAMES.values() for name in names}


def test_options_of_predict_are_reserved() -> None:
    options = {
        option.lstrip("-").replace("-", "_")
        for parameter in build("predict").params
        for option in parameter.opts
    }
    assert {"bundle", "json", "providers"} < options <= ALL_RESERVED


def test_columns_of_scores_are_reserved() -> None:
    columns = set(score_schema(["photo"], ("a", "b"), features=True).names)
    of_photo = {f"photo_{suffix}" for suffix in SCORE_SUFFIXES}
    assert of_photo < columns
    assert columns - of_photo <= ALL_RESERVED


def test_files_of_a_bundle_are_reserved() -> None:
    files = {Path(name).stem for name in (CLASSIFIER, EVALUATION, MANIFEST, "README.md")}
    assert {name.lower() for name in files} <= ALL_RESERVED


@pytest.mark.parametrize("name", ["id", "classifier", "on_unreadable", "com1", "photo_present"])
def test_reserved_name_problem_lists_the_names(name: str) -> None:
    problem = reserved_name_problem(name, ["photo", name])
    assert problem
    assert "reserved: " in problem
    assert name in problem.partition(": ")[2]


@pytest.mark.parametrize("name", ["photo", "title", "label_text", "note_label", "encoder"])
def test_other_name_is_not_reserved(name: str) -> None:
    assert reserved_name_problem(name, ["photo", name]) is None
