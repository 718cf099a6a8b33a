"""What is measured: bare graphs, dimml, and rivals with the same weights.

A subject is loaded once and then computes any of the test samples, given by their numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.offline.real.models import PRECISIONS, REAL, model_folders, test_samples
from dimml.bundle import Bundle
from dimml.errors import InputError
from dimml.predictor import Predictor
from dimml.runtime.session import Graph

Compute = Callable[[Sequence[int]], Any]
"""Computes the samples of these numbers."""

ALL = "all"
"""The name of all modalities together."""

RIVAL_BATCH = 32
WHISPER_RATE = 16_000


def load_bare(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return the graph of one encoder, on inputs that are in memory and sorted by length."""
    bundle, graph = _graph(kind, precision)
    session = Graph(graph, "cpu", threads)
    return _batched(bundle, kind, batch, session.run)


def load_dimml(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return `Predictor.predict_many` from files and texts to predictions."""
    return _predictions(Predictor.load(PRECISIONS[precision], "cpu", threads), kind)


def load_torch(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return the eager PyTorch model of the run behind dimml's decoding and preprocessing."""
    from benchmarks.http.rivals.models import torch_predictor

    return _predictions(torch_predictor(REAL / "run", PRECISIONS[precision]), kind)


def load_openvino(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return the graph of one encoder in OpenVINO, on inputs as for `load_bare`.

    The precision `bf16` lets OpenVINO round products to bfloat16, as it does by default.
    """
    import openvino

    bundle, graph = _graph(kind, "fp32")
    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if precision == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    model = core.compile_model(core.read_model(graph), "CPU", settings)
    return _batched(bundle, kind, batch, model)


def load_sentence_transformers(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return `SentenceTransformer.encode`, which sorts the texts by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folders()["text"]), device="cpu")
    texts = _values("text")
    return lambda rows: model.encode([texts[row] for row in rows], batch_size=RIVAL_BATCH)


def load_fastembed(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return fastembed on the weights of the text encoder, exported without an adapter."""
    from fastembed import TextEmbedding

    folder = _fastembed_folder()
    model = TextEmbedding(
        "sentence-transformers/all-MiniLM-L6-v2", threads=threads, specific_model_path=str(folder)
    )
    texts = _values("text")
    return lambda rows: list(model.embed([texts[row] for row in rows], batch_size=RIVAL_BATCH))


def load_transformers(kind: str, precision: str, batch: int, threads: int) -> Compute:
    """Return the pipeline for features of `transformers`; for audio, its extractor and encoder.

    The encoder of Whisper in `transformers` accepts 30 s only, so each clip is filled up to that.
    """
    import transformers

    folder, values = str(model_folders()[kind]), _values(kind)
    if kind == "audio":
        return _transformers_whisper(folder, values)
    task = {"image": "image-feature-extraction", "text": "feature-extraction"}[kind]
    options: dict[str, Any] = {"return_tensors": True} if kind == "text" else {}
    pipeline: Any = transformers.pipeline(task, model=folder, device="cpu", batch_size=batch)
    return lambda rows: pipeline([str(values[row]) for row in rows], **options)


def _transformers_whisper(folder: str, paths: Sequence[Path]) -> Compute:
    import soundfile
    import soxr
    import torch
    import transformers

    extractor: Any = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    whisper: Any = transformers.WhisperModel.from_pretrained(folder, dtype=torch.float32)
    encoder = whisper.encoder.eval()

    @torch.inference_mode()
    def compute(rows: Sequence[int]) -> Any:
        clips = []
        for row in rows:
            samples, rate = soundfile.read(paths[row], dtype="float32")
            clips.append(soxr.resample(samples, rate, WHISPER_RATE))
        mel = extractor(clips, sampling_rate=WHISPER_RATE, return_tensors="pt").input_features
        return encoder(mel).last_hidden_state.mean(dim=1)

    return compute


SUBJECTS: dict[str, Callable[[str, str, int, int], Compute]] = {
    "bare graph": load_bare,
    "dimml": load_dimml,
    "PyTorch": load_torch,
    "OpenVINO, bare graph": load_openvino,
    "sentence-transformers": load_sentence_transformers,
    "fastembed": load_fastembed,
    "transformers": load_transformers,
}
"""Name to a function of the modality, precision, batch size and threads."""


def _values(kind: str) -> list[Any]:
    return [sample[kind] for sample in test_samples()]


def _graph(kind: str, precision: str) -> tuple[Bundle, Path]:
    bundle = Bundle.load(PRECISIONS[precision])
    return bundle, bundle.path / bundle.manifest.modalities[kind].graph


def _batched(bundle: Bundle, kind: str, batch: int, run: Callable[[Any], Any]) -> Compute:
    """Return a function that runs batches of preprocessed samples."""
    decoder = bundle.kinds()[kind]
    items = [decoder.preprocess(decoder.decode(value)) for value in _values(kind)]

    def compute(rows: Sequence[int]) -> None:
        ordered = sorted((items[row] for row in rows), key=decoder.size)
        for start in range(0, len(ordered), batch):
            run(decoder.collate(ordered[start : start + batch]))

    return compute


def _predictions(predictor: Predictor, kind: str) -> Compute:
    samples = test_samples()
    if kind != ALL:
        samples = [{kind: sample[kind]} for sample in samples]

    def compute(rows: Sequence[int]) -> None:
        for answer in predictor.predict_many([samples[row] for row in rows]):
            if isinstance(answer, InputError):
                raise answer

    return compute


def _fastembed_folder() -> Path:
    """Write MiniLM as fastembed expects it: `model.onnx` with hidden states, and the tokenizer."""
    import torch
    import transformers

    source, folder = model_folders()["text"], REAL / "fastembed"
    if (folder / "model.onnx").exists():
        return folder
    shutil.copytree(source, folder, dirs_exist_ok=True)
    model: Any = transformers.AutoModel.from_pretrained(source).eval()
    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ("input_ids", "attention_mask", "token_type_ids")
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=256)}
    torch.onnx.export(
        model,
        kwargs=dict.fromkeys(names, ids),
        f=str(folder / "model.onnx"),
        dynamo=True,
        dynamic_shapes=dict.fromkeys(names, axes),
        external_data=False,
        verbose=False,
    )
    return folder
