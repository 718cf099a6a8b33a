"""A bundle with examples, made from one without."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

from PIL import Image, ImageDraw

from dimml.bundle import MANIFEST, file_entry


def add_examples(bundle: Path, folder: Path) -> Path:
    """Copy a bundle and give it two examples: a light drawing on dark ground, and a text."""
    shutil.copytree(bundle, folder)
    picture = Image.new("L", (32, 32))
    ImageDraw.Draw(picture).line((4, 4, 28, 28), fill=255, width=4)
    content = io.BytesIO()
    picture.save(content, "PNG")
    file = folder / "example-0-image-0.png"
    file.write_bytes(content.getvalue())
    document = json.loads((folder / MANIFEST).read_text())
    document["examples"] = [
        {"label": "one", "values": {"image": [file.name], "text": "one"}},
        {"label": "seven <b>", "values": {"text": "seven"}},
    ]
    document["files"][file.name] = file_entry(file).model_dump()
    (folder / MANIFEST).write_text(json.dumps(document))
    return folder
