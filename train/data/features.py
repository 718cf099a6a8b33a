"""Features of frozen encoders: computed once per content, kept on disk, and read in training."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dimml.errors import RecipeError
from dimml.machine import available_cores
from dimml.modalities import Arrays, Kind, KindConfig
from dimml.nn.encoders import pool_frames
from dimml.nn.pretrained.backbone import Backbone, pooled_width
from train.data.augment import NO_AUGMENTATION, Augmentation, augment
from train.data.digests import content_digest
from train.data.store import FeatureStore
from train.pretrained import PretrainedModel

BATCH_SIZE = 32


class Features(Kind):
    """A modality whose values are the features of a frozen encoder, float32 [views, width].

    Graph input: `features`, float32 [N, width], the first view of each sample.
    """

    Config = KindConfig
    input_names = ("features",)

    def __init__(self, name: str, width: int) -> None:
        self.width = width
        super().__init__(name, {})

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        """Do nothing: features need no preprocessing."""

    def decode(self, value: Any) -> np.ndarray:
        """Return features [views, width] as they are."""
        return np.asarray(value, np.float32)

    def preprocess(self, raw: np.ndarray) -> Arrays:
        """Return features [views, width] under the name of the graph input."""
        return {"features": raw}

    def warnings(self, raw: np.ndarray) -> tuple[str, ...]:
        return ()

    def example(self) -> np.ndarray:
        return np.zeros((1, self.width), np.float32)

    def bucket(self, arrays: Arrays) -> tuple[()]:
        return ()

    def collate(self, items: Sequence[Arrays]) -> Arrays:
        return {"features": np.stack([item["features"][0] for item in items])}


@dataclass
class PendingFeatures:
    """A value on its way through a frozen encoder.

    Attributes:
        keys: The digest of each view.
        views: The preprocessed arrays of each view; None if the store has all of them.
    """

    keys: list[bytes]
    views: list[Arrays] | None


@dataclass
class FrozenEncoder:
    """The frozen backbone of a modality, and the store of its features.

    Attributes:
        kind: The modality, which decodes and preprocesses the values.
        model: The pretrained model, which is loaded when the first value is not in the store.
        store: The store, used by this model and preprocessing only.
        views: Views of each value; the first is the value as it is.
        augmentation: Changes the other views.
        salt: Distinguishes values that are changed after they are read.
    """

    kind: Kind
    model: PretrainedModel
    store: FeatureStore
    views: int = 1
    augmentation: Augmentation = NO_AUGMENTATION
    salt: str = ""
    _loaded: list[Backbone] = field(default_factory=list)

    @property
    def identity(self) -> tuple[str, int, str]:
        """What the features depend on besides the values."""
        changes = self.augmentation.key if self.views > 1 else ""
        return self.store.folder.name, self.views, changes

    @property
    def width(self) -> int:
        """Size of the features."""
        return pooled_width(self.model.settings)

    def without_views(self, kind: Kind | None = None, salt: str = "") -> FrozenEncoder:
        """Return this encoder for values that are not augmented, or changed by another kind."""
        return replace(self, kind=kind or self.kind, views=1, salt=salt)

    def decode(self, value: Any) -> PendingFeatures:
        """Decode and preprocess a value, unless the store has its features.

        Raises:
            InputError: If the value cannot be read.
        """
        content = content_digest(self.kind, value)
        parts = [
            f"{self.salt}\0{view}\0{self.augmentation.key if view else 0}"
            for view in range(self.views)
        ]
        keys = [hashlib.sha256(part.encode() + b"\0" + content).digest()[:16] for part in parts]
        if all(key in self.store for key in keys):
            return PendingFeatures(keys, None)
        plain = self.kind.preprocess(self.kind.decode(value))
        views = [plain]
        for key in keys[1:]:
            random = np.random.default_rng(list(key))
            views.append(augment(self.kind, plain, self.augmentation, random))
        return PendingFeatures(keys, views)

    def encode(self, values: Sequence[PendingFeatures]) -> list[np.ndarray]:
        """Return the features [views, width] of each value."""
        missing: dict[bytes, Arrays] = {}
        for value in values:
            for key, arrays in zip(value.keys, value.views or (), strict=False):
                if key not in self.store:
                    missing[key] = arrays
        groups: dict[object, list[bytes]] = defaultdict(list)
        # Texts of about equal length share a batch, so that little of it is padding.
        for key in sorted(missing, key=lambda key: missing[key][self.kind.input_names[0]].size):
            groups[self.kind.bucket(missing[key])].append(key)
        for keys in groups.values():
            for start in range(0, len(keys), BATCH_SIZE):
                batch = keys[start : start + BATCH_SIZE]
                vectors = self._run(self.kind.collate([missing[key] for key in batch]))
                for key, vector in zip(batch, vectors, strict=True):
                    self.store.add(key, vector)
        return [np.stack([self.store[key] for key in value.keys]) for value in values]

    def warm(self) -> Backbone:
        """Load the backbone, unless it is loaded, and return it."""
        if not self._loaded:
            self._loaded.append(_on_device(self.model.load()))
        return self._loaded[0]

    def release(self) -> None:
        """Free the memory of the backbone, which is loaded again if it is needed."""
        self._loaded.clear()

    @torch.inference_mode()
    def _run(self, inputs: Arrays) -> np.ndarray:
        backbone = self.warm()
        device = next(backbone.parameters()).device
        values = [torch.from_numpy(inputs[name]).to(device) for name in self.kind.input_names]
        is_image = self.model.settings.kind == "image"
        pooled = pool_frames(backbone, values[0]) if is_image else backbone(*values)
        vectors: np.ndarray = pooled.cpu().numpy()
        if vectors.shape[1:] != (self.width,):
            raise RecipeError(
                f"modalities.{self.kind.name}: {self.model.settings.model} gives features of the "
                f"shape {list(vectors.shape[1:])}, but its configuration says [{self.width}]; set "
                "`encoder.pooling`, or choose another model"
            )
        return vectors


def stored_kinds(kinds: Mapping[str, Kind], frozen: Mapping[str, FrozenEncoder]) -> dict[str, Kind]:
    """Return the kinds of what a split holds: features where the encoder is frozen."""
    return {
        name: Features(name, frozen[name].width) if name in frozen else kind
        for name, kind in kinds.items()
    }


def _on_device(backbone: Backbone) -> Backbone:
    """Move a backbone to the GPU if there is one; on a CPU, use every core and a fast layout."""
    if torch.cuda.is_available():
        return backbone.cuda()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(available_cores())
    if backbone.settings.kind == "image":
        convert: Any = backbone.to
        convert(memory_format=torch.channels_last)
    return backbone
