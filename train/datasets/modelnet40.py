"""ModelNet40 in two views: the front and the rear of 3D models of 40 kinds of things.

The pictures are the renders of the Multi-view CNN, 12 views around each model. A sample is view 1
and view 7, which shows the model from the opposite side.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from dimml.errors import UsageError
from dimml.modalities import Image
from train.datasets.output import check_out
from train.datasets.published import (
    PublishedSample,
    Source,
    draw_groups,
    keep_file,
    write_samples,
)

SOURCE = Source(
    name="modelnet40",
    published_in="the 12-view renders modelnet40_images_new_12x of the Multi-view CNN",
    unit="models",
    total=12_311,
)
VIEWS = {"front": 1, "rear": 7}
_PICTURE_NAME = re.compile(r"([^.].*)\.obj\.shaded_v([0-9]{3})\.png")
_PICTURE = Image("picture", {})
_EXAMPLE = "airplane/train/airplane_0001.obj.shaded_v001.png"


def write(root: Path, out: Path, *, seed: int = 0) -> Path:
    """Write the data set into a folder, which appears when it is complete.

    The test split is the published one. About a tenth of the models of each class of the published
    train split are the validation split.

    Args:
        root: Folder with a folder for each class, `CLASS/train` and `CLASS/test`.
        out: Folder to write, which does not exist or is empty.
        seed: Seed of the validation split, 0 or more.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If `out` is not empty, or `root` holds no renders.
    """
    check_out(out, seed)
    found = find_models(root)
    validation = draw_groups(
        ((label, model) for label, split, model in found if split == "train"), seed
    )
    samples = []
    for label, split, model in found:
        prefix = root / label / split / f"{model}.obj.shaded_v"
        cells = {
            side: partial(
                keep_file,
                prefix.with_name(f"{prefix.name}{view:03d}.png"),
                name=f"{side}/{model}.png",
                kind=_PICTURE,
            )
            for side, view in VIEWS.items()
        }
        is_validation = split == "train" and (label, model) in validation
        samples.append(
            PublishedSample(model, "validation" if is_validation else split, label, cells)
        )
    return write_samples(samples, out, SOURCE)


def find_models(root: Path) -> list[tuple[str, str, str]]:
    """Return the class, the published split and the name of each model, sorted.

    Raises:
        UsageError: If there are none, or two models have the same name.
    """
    if not root.is_dir():
        raise UsageError(
            f"{root} is not a folder; ROOT is the folder that holds {_EXAMPLE}, as in "
            f"{SOURCE.published_in}"
        )
    models = {
        (path.parent.parent.name, path.parent.name, match[1])
        for split in ("train", "test")
        for path in root.glob(f"*/{split}/*.png")
        if (match := _PICTURE_NAME.fullmatch(path.name)) and int(match[2]) in VIEWS.values()
    }
    if not models:
        raise UsageError(
            f"{root} holds no renders of the views 1 and 7; expected names such as {_EXAMPLE}, as "
            f"in {SOURCE.published_in}"
        )
    ordered = sorted(models)
    places: dict[str, tuple[str, str, str]] = {}
    for model in ordered:
        if (other := places.setdefault(model[2], model)) is not model:
            raise UsageError(
                f"{root} has the model {model[2]} in {'/'.join(other[:2])} and in "
                f"{'/'.join(model[:2])}; keep the one of {SOURCE.published_in}"
            )
    return ordered
