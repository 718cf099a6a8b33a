"""The bundle: a folder with everything that a prediction depends on.

A bundle holds `manifest.json`, one ONNX graph per modality, `classifier.onnx` and the assets of the
modalities, such as tokenizers. `evaluation.json`, `README.md`, `report.json` and `report.html`
describe the bundle. The id of the bundle does not cover these files.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic

from dimml.errors import BundleError
from dimml.files import new_folder
from dimml.modalities import KINDS, Kind, Limits
from dimml.modality_specs import FileName, ModalitySpec, build_kinds, shared_columns
from dimml.names import ModalityName
from dimml.onnx_check import check_graph
from dimml.samples import MAX_MODALITIES
from dimml.table import TableLayout

MANIFEST = "manifest.json"
CLASSIFIER = "classifier.onnx"
EVALUATION = "evaluation.json"
FORMAT: Final = "dimml-bundle"
FORMAT_VERSION: Final = 1


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Example(_Model):
    """A sample of the data, which a service offers to people who try it.

    Attributes:
        label: Its true label.
        values: Modality name to the files of its value, or for text to the text itself.
    """

    label: str
    values: Annotated[dict[str, str | tuple[FileName, ...]], pydantic.Field(min_length=1)]


class Conformal(_Model):
    """Split-conformal limits, one per subset of present modalities.

    The prediction set holds the most probable label and every label that has at least the smallest
    probability of the subset. Without such a limit, the prediction set holds every label.

    Attributes:
        coverage: Share of prediction sets that contain the true label, 0..1.
        min_probabilities: Subset name to the smallest probability of a label in the set.
        thresholds: Subset name to 1 - smallest probability, for subsets that `min_probabilities`
            does not name. Earlier versions wrote this key.
        uncertified: Name of each subset without a limit, to the number of its conformal rows, which
            are too few to certify the coverage.
    """

    coverage: Annotated[float, pydantic.Field(gt=0, lt=1)]
    min_probabilities: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    uncertified: dict[str, int] = {}

    def min_probability(self, subset: str) -> float | None:
        """Return the smallest probability of a label in the set, or None without a limit."""
        threshold = self.thresholds.get(subset)
        return self.min_probabilities.get(subset, None if threshold is None else 1 - threshold)


class FileEntry(_Model):
    """The checksum and the size of one file."""

    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, pydantic.Field(ge=0)]


class Manifest(_Model):
    """The content of `manifest.json`. The classifier has its slots in the order of `modalities`.

    `interaction` maps a subset to the share of the interaction head in its answers; a subset that
    is not listed has none. Of the `feature_dim` features of an encoder, the shared classifier reads
    the first `late_dim`, and the interaction head the others; earlier versions left this field out.
    `table` has the columns of the tables that the bundle was trained on.
    """

    format: Literal["dimml-bundle"] = FORMAT
    version: Literal[1] = FORMAT_VERSION
    name: Annotated[str, pydantic.Field(min_length=1, max_length=64)]
    created: str
    labels: Annotated[tuple[str, ...], pydantic.Field(min_length=2)]
    feature_dim: Annotated[int, pydantic.Field(ge=1)]
    late_dim: Annotated[int, pydantic.Field(ge=1)] | None = None
    modalities: Annotated[
        dict[ModalityName, ModalitySpec], pydantic.Field(min_length=1, max_length=MAX_MODALITIES)
    ]
    classifier: FileName = CLASSIFIER
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    provenance: dict[str, Any] = {}
    conformal: Conformal | None = None
    table: TableLayout = TableLayout()
    interaction: dict[str, Annotated[float, pydantic.Field(ge=0, le=1)]] = {}
    examples: tuple[Example, ...] = ()
    files: dict[FileName, FileEntry] = {}

    @property
    def graphs(self) -> list[str]:
        """The graph files: one encoder per modality, then the classifier."""
        return [*(spec.graph for spec in self.modalities.values()), self.classifier]

    @pydantic.model_validator(mode="after")
    def _check_consistency(self) -> Manifest:
        if (self.late_dim or 1) > self.feature_dim:
            raise ValueError(f"late_dim must be at most feature_dim, {self.feature_dim}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        files = self.graphs
        for name, spec in self.modalities.items():
            if spec.kind not in KINDS:
                raise ValueError(f"{name}: unknown kind {spec.kind!r}; known: {', '.join(KINDS)}")
            files += spec.assets.values()
        for example in self.examples:
            if unknown := sorted(set(example.values) - set(self.modalities)):
                raise ValueError(f"an example has the unknown modality {unknown[0]}")
            for value in example.values.values():
                files += [] if isinstance(value, str) else value
        if missing := sorted(set(files) - set(self.files)):
            raise ValueError(f"no checksum for {', '.join(missing)}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files match its manifest.

    Attributes:
        path: Folder of the bundle.
        manifest: Validated manifest.
        id: "<name>@<first 12 hexadecimal digits of the manifest's sha256>".
    """

    path: Path
    manifest: Manifest
    id: str

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read a bundle and verify its files.

        Raises:
            BundleError: If the folder is not a bundle, the version is unknown, a file is missing or
                was changed after the export, or `check_graph` rejects a graph.
        """
        folder = Path(path)
        try:
            content = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(
                f"{folder} is not a bundle: it has no readable {MANIFEST} ({error.strerror}); "
                "create one with `dimml export RUN BUNDLE`"
            ) from error
        # A link could point outside the folder, so a copy of the bundle could lack its target.
        if (folder / MANIFEST).is_symlink():
            raise BundleError(f"{folder / MANIFEST} is a link: copy the bundle again")
        manifest = _parse_manifest(folder, content)
        for name, entry in manifest.files.items():
            _verify_file(folder / name, entry)
        for graph in manifest.graphs:
            check_graph(folder / graph)
        return cls(folder, manifest, f"{manifest.name}@{hashlib.sha256(content).hexdigest()[:12]}")

    def kinds(self, limits: Limits | None = None) -> dict[str, Kind]:
        """Return the preprocessing of each modality, in manifest order."""
        specs = self.manifest.modalities
        assets = {name: self.assets(spec) for name, spec in specs.items()}
        return build_kinds(specs, assets, self.manifest.table, limits)

    @property
    def shared_columns(self) -> dict[str, tuple[str, ...]]:
        """Column to the modalities that read it, see `dimml.modality_specs.shared_columns`."""
        return shared_columns(self.manifest.modalities, self.manifest.table)

    def assets(self, spec: ModalitySpec) -> dict[str, bytes]:
        """Return the content of the assets of a modality."""
        return {asset: (self.path / file).read_bytes() for asset, file in spec.assets.items()}


def file_entry(path: Path) -> FileEntry:
    """Compute the checksum and the size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, bytes=path.stat().st_size)


def new_bundle(path: Path) -> AbstractContextManager[Path]:
    """Return a context manager that writes a bundle or replaces one, see `new_folder`."""
    return new_folder(path, "a bundle", _is_bundle)


def _is_bundle(folder: Path) -> bool:
    # Other tools write a `manifest.json` too, and their folders must not be replaced.
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def _parse_manifest(folder: Path, content: bytes) -> Manifest:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{folder / MANIFEST} is not JSON ({error}): copy or export the bundle again"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(
            f'{folder / MANIFEST} is not the manifest of a bundle: its "format" is not "{FORMAT}"'
        )
    if document.get("version") != FORMAT_VERSION:
        raise BundleError(
            f"{folder} is a bundle of format version {document.get('version')}; this dimml reads "
            f"version {FORMAT_VERSION}: export the bundle again or install a matching dimml"
        )
    try:
        return Manifest.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{folder / MANIFEST}: {field}: {first['msg']}") from error


def _verify_file(path: Path, entry: FileEntry) -> None:
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path} is missing or is not a plain file: copy the bundle again")
    if path.stat().st_size != entry.bytes or file_entry(path) != entry:
        raise BundleError(
            f"{path} is not the file that was exported (its checksum differs): copy or export the "
            "bundle again"
        )
