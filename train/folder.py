"""The folder of a run: who may train into it, and what is in it after a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dimml.errors import InterruptedRunError, UsageError
from dimml.interrupt import sigterm_as_ctrl_c

RECIPE = "recipe.yaml"
DATA = "data.json"
"""The path and the sha256 of the table, and of the samples, written when training starts."""
LAST = "last.ckpt"
RUN = "run.json"


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Takes SIGTERM for Ctrl-C, and says of a stopped run how it goes on.

    Raises:
        InterruptedRunError: stopped, with an epoch to go on from.
        KeyboardInterrupt: stopped before that.
    """
    with sigterm_as_ctrl_c():
        try:
            yield
        except KeyboardInterrupt:
            if not (folder / LAST).exists():
                raise
            raise InterruptedRunError(
                f"stopped; the same command with --resume goes on (the run is in {folder})"
            ) from None


def check_folder(folder: Path, recipe: str, sha256: str, resume: bool) -> None:
    """Refuses a folder that is not ready for a run, or not for going on with one.

    Args:
        folder: the run's.
        recipe: the content of `recipe.yaml`.
        sha256: of the table.
        resume: whether to go on with a stopped run.

    Raises:
        UsageError: it holds a run and `resume` was not asked for, or the other way round; or the
            run in it was started with other settings or on other data.
    """
    if (folder / RUN).exists():
        raise UsageError(f"{folder} holds a finished run: remove it or choose another with --out")
    if not resume and (folder / LAST).exists():
        raise UsageError(f"{folder} holds a stopped run: add --resume, or remove it")
    if not resume:
        return
    if not (folder / LAST).exists():
        raise UsageError(f"{folder} holds nothing to resume; leave --resume out")
    if (folder / RECIPE).read_text() != recipe:
        raise UsageError(
            f"the run in {folder} was started with other settings (its {RECIPE} holds them): "
            "resume with those, or choose another folder with --out"
        )
    if json.loads((folder / DATA).read_text())["sha256"] != sha256:
        raise UsageError(
            f"the data changed since the run in {folder} was started (its {DATA} names the table): "
            "resume with what it was, or choose another folder with --out"
        )


def check_samples(folder: Path, samples: Mapping[str, str]) -> None:
    """Refuses to go on with other samples than a run was started with, see `Split.fingerprint`.

    Raises:
        UsageError: a file changed under the same table.
    """
    before = json.loads((folder / DATA).read_text()).get("samples", samples)
    if changed := [name for name, found in samples.items() if before.get(name) != found]:
        raise UsageError(
            f"files of the {' and '.join(changed)} split changed since the run in {folder} was "
            "started: resume with what they were, or choose another folder with --out"
        )
