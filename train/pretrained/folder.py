"""Find the folder of a pretrained model: a local folder, or a download from the hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml.errors import RecipeError

_HUB_ID = re.compile(r"(?P<model>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "1_Pooling/config.json"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a pretrained model.

    Attributes:
        path: The folder.
        model: Hub id, or name of the local folder.
        revision: Commit of the hub; None for a local folder.
    """

    path: Path
    model: str
    revision: str | None

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; empty if there is no such file.

        Raises:
            RecipeError: If the file cannot be read or does not hold a mapping.
        """
        path = self.path / name
        if not path.exists():
            return {}
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RecipeError(f"{path} cannot be read: {error}; download the model again") from None
        if not isinstance(document, dict):
            raise RecipeError(f"{path} does not hold a JSON object; download the model again")
        return document


def find_folder(source: str) -> ModelFolder:
    """Return the folder of a model.

    Args:
        source: A local folder, or a hub id such as `openai/whisper-base`, with an optional
            `@revision`. A model that was downloaded before needs no network.

    Raises:
        RecipeError: If there is no such model, or it has no safetensors.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        folder = ModelFolder(local, local.resolve().name, None)
    elif source.startswith((".", "/", "~")) or source.endswith("/"):
        raise RecipeError(f"there is no folder {source}")
    elif match := _HUB_ID.fullmatch(source):
        folder = _download(match["model"], match["revision"])
    else:
        raise RecipeError(f"{source!r} is neither a folder nor the id of a model on the hub")
    _check_files(folder)
    return folder


def _download(model: str, revision: str | None) -> ModelFolder:
    # Importing the hub's client takes a second.
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(model, revision=revision, allow_patterns=_FILES)
    # The client raises errors of its own, of its HTTP library and of the file system.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RecipeError(
            f"there is no preset or folder {model!r} here, and the hub could not give such a model "
            f"({reason}); check the name and the network, or give the folder of a downloaded model"
        ) from error
    return ModelFolder(Path(path), model, Path(path).name)


def _check_files(folder: ModelFolder) -> None:
    if not (folder.path / "config.json").is_file():
        raise RecipeError(
            f"{folder.path} has no config.json, so it is not the folder of a pretrained model"
        )
    if any(folder.path.glob("model*.safetensors")):
        return
    pickles = [file.name for pattern in _PICKLES for file in folder.path.glob(pattern)]
    if pickles:
        raise RecipeError(
            f"{folder.model} has its weights in {pickles[0]} only, a pickle file, which can run "
            "any code when it is loaded; choose a model with model.safetensors, or convert this "
            "one with `save_pretrained` of transformers where you trust it"
        )
    raise RecipeError(f"{folder.path} has no model.safetensors; download the model again")
