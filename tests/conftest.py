from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import tokenizers
from filelock import FileLock
from starlette.testclient import TestClient
from tokenizers import models, pre_tokenizers, trainers

OpenClient = Callable[..., AbstractContextManager[TestClient]]
PretrainedFolder = Callable[[str, str], Path]
Dimml = Callable[..., tuple[object, str, str]]
SharedFolder = Callable[[str, Callable[[Path], object]], Path]

LABELS = ("zero", "one", "two", "three")
INTERACTION_SHARE = 0.25
"""The interaction head's share in the answers of exported bundles, for two or more modalities."""
IMAGE = {"size": [32, 32], "channels": 3}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip slow tests that are not asked for, and tests of CUDA where there is none."""
    slow = item.get_closest_marker("slow")
    if slow and "DIMML_SLOW_TESTS" not in os.environ:
        pytest.skip(f"`make slow` runs this test: {slow.args[0]}")
    if item.get_closest_marker("gpu"):
        from dimml.errors import ProviderError
        from dimml.runtime.providers import choose_provider

        try:
            choose_provider("cuda")
        except ProviderError as error:
            pytest.skip(error.message)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> SharedFolder:
    """Return a function that writes a folder once for all processes of pytest-xdist.

    Tests that change a shared folder copy it first.
    """
    root = tmp_path_factory.getbasetemp()
    parent = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared"

    def shared(name: str, write: Callable[[Path], object]) -> Path:
        folder = parent / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                write(folder)
        return folder

    return shared


@pytest.fixture(scope="session")
def tiny_bundle(shared_folder: SharedFolder) -> Path:
    """Export a bundle with one modality of each kind."""
    text = ("text", {"max_length": 16})
    modalities = {"audio": ("audio", {}), "image": ("image", IMAGE), "text": text}
    return shared_folder("bundles/tiny", lambda path: export_tiny(path, modalities))


@pytest.fixture(scope="session")
def free_names_bundle(shared_folder: SharedFolder) -> Path:
    """Export a bundle whose modalities are not named after their kinds."""
    image, text = ("image", IMAGE), ("text", {"max_length": 16})
    modalities = {"front": image, "rear": image, "note": text}
    return shared_folder("bundles/free", lambda path: export_tiny(path, modalities))


@pytest.fixture(scope="session")
def frames_bundle(shared_folder: SharedFolder) -> Path:
    """Export a bundle whose image modality takes a list of frames."""
    modalities = {"clip": ("image", {**IMAGE, "frames": 3}), "text": ("text", {})}
    return shared_folder("bundles/frames", lambda path: export_tiny(path, modalities))


@pytest.fixture(scope="session")
def video_bundle(shared_folder: SharedFolder) -> Path:
    """Export a bundle that reads pictures and sound of one column, and optical flow of another."""
    modalities = {
        "pictures": ("image", {**IMAGE, "frames": 3}),
        "sound": ("audio", {}),
        "motion": ("flow", {"size": [32, 32], "frames": 2}),
    }
    columns = {"pictures": "clip", "sound": "clip"}
    return shared_folder("bundles/video", lambda path: export_tiny(path, modalities, columns))


@pytest.fixture(scope="session")
def any_length_bundle(shared_folder: SharedFolder) -> Path:
    """Export a bundle whose audio modality keeps the length of each recording."""
    modalities = {"audio": ("audio", {"seconds": None}), "text": ("text", {"max_length": 16})}
    return shared_folder("bundles/any_length", lambda path: export_tiny(path, modalities))


@pytest.fixture(scope="session")
def pretrained_folder(shared_folder: SharedFolder) -> PretrainedFolder:
    """Return a function that writes a miniature of a pretrained model once, and gives its folder.

    Tests that change a folder copy it first.
    """

    def written(kind: str, model_type: str) -> Path:
        from tests.pretrained_folders import write_folder

        name = f"pretrained/{kind}-{model_type}"
        return shared_folder(name, lambda folder: write_folder(folder, kind, model_type))

    return written


@pytest.fixture(scope="session")
def open_client(tmp_path_factory: pytest.TempPathFactory) -> OpenClient:
    """Return a function that opens a client of the service in this process.

    BentoML allows only one open service per process.
    """

    @contextmanager
    def opened(
        bundle: Path, *, host: str = "127.0.0.1", **settings: object
    ) -> Iterator[TestClient]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("DIMML_BUNDLE", str(bundle))
            monkeypatch.setenv("DIMML_PROVIDERS", "cpu")
            # Gradio takes seconds to import.
            monkeypatch.setenv("DIMML_UI", "0")
            for name, value in settings.items():
                monkeypatch.setenv(f"DIMML_{name.upper()}", str(value))
            monkeypatch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
            from serving.capacity import get_capacity
            from serving.settings import get_settings

            get_settings.cache_clear()
            get_capacity.cache_clear()
            _forget_bentoml_metrics()
            from serving.service import Dimml

            service: Any = Dimml
            try:
                with TestClient(service.to_asgi(), client=(host, 50000)) as client:
                    yield client
            finally:
                get_settings.cache_clear()

    return opened


@pytest.fixture
def dimml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dimml:
    """Return a function that calls the command line: exit code, standard output and error."""
    from dimml.cli import main

    def call(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["dimml", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        return exited.value.code, *capsys.readouterr()

    return call


def export_tiny(
    path: Path,
    modalities: dict[str, tuple[str, dict[str, Any]]],
    columns: dict[str, str] | None = None,
) -> Path:
    """Export an untrained model of small encoders with seeded random weights.

    It has an interaction head, and most inputs are farther from its training data than usual.
    """
    import torch

    from dimml.modalities import KINDS
    from dimml.modality_specs import ModalitySpec, build_kind
    from dimml.nn.encoders import build_encoder
    from dimml.nn.model import MultimodalModel
    from dimml.table import TableLayout
    from export.onnx import write_bundle

    specs, assets, kinds = {}, {}, {}
    for name, (kind, preprocessing) in modalities.items():
        tokenizer = {"tokenizer.json": tokenizer_json()} if kind == "text" else {}
        spec = ModalitySpec(
            kind=kind,
            graph=f"{name}.onnx",
            inputs=KINDS[kind].inputs_of(preprocessing),
            preprocessing=preprocessing,
            encoder="small",
            assets={asset: f"{name}.{asset}" for asset in tokenizer},
        )
        specs[name], assets[name] = spec, tokenizer
        kinds[name] = build_kind(name, spec, tokenizer, None)
    torch.manual_seed(0)
    encoders = [build_encoder(kind, 16) for kind in kinds.values()]
    model = MultimodalModel(list(kinds), encoders, 16, len(LABELS))
    model.fusion.distance.whitening[:] = 4 * torch.eye(16)
    model.add_interaction(["mlp"])
    interaction: Any = model.fusion.interaction
    share = torch.full_like(interaction.share, INTERACTION_SHARE)
    share[:, [0, *(2**slot for slot in range(len(kinds)))]] = 0
    interaction.set_shares(share, torch.ones_like(share), torch.where(share[0] > 0, 0.8, 1.0))
    write_bundle(
        path,
        model,
        kinds,
        specs,
        assets,
        name=path.name,
        labels=LABELS,
        created="2026-01-01T00:00:00Z",
        provenance={},
        table=TableLayout(columns=columns or {}),
    )
    return path


def tokenizer_json() -> bytes:
    """Return a tokenizer of letters and a few words."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    tokenizer.train_from_iterator(["zero one two three seven number", "a b c d e f g h"], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def _forget_bentoml_metrics() -> None:
    # BentoML registers its metrics for each application in the one registry of the process.
    registry = prometheus_client.REGISTRY
    for collector, names in list(registry._collector_to_names.items()):
        if any(name.startswith("bentoml") for name in names):
            registry.unregister(collector)
