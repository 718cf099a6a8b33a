"""What a comparison runs, and whose folder it writes to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml import __version__
from dimml.errors import UsageError
from dimml.files import write_atomic
from train.methods import METHODS, VARIANTS, method_class, method_of
from train.recipe import Recipe, written

SETTINGS = "settings.json"
RESULTS = "results"
TRIALS = "trials"
WORK = "work"
DOCUMENT = "compare.json"
MARKDOWN = "report.md"
PAGE = "report.html"
REPORT = (DOCUMENT, MARKDOWN, PAGE)
PROTOCOL = 2
"""Changes with whatever makes old results incomparable."""


@dataclass(frozen=True)
class ComparisonPlan:
    """What is to be run.

    Attributes:
        runs: names of methods or variants.
        seeds: of each.
        trials: points of each method's grid that are tried on the first seed.
    """

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int


def known_runs(names: str) -> tuple[str, ...]:
    """The runs of a list joined by commas, each once; all methods of an empty one.

    Raises:
        UsageError: there is none of a name.
    """
    given = tuple(dict.fromkeys(n for n in map(str.strip, names.split(",")) if n)) or (*METHODS,)
    if unknown := [name for name in given if name not in METHODS and name not in VARIANTS]:
        raise UsageError(
            f"--methods: no method {', '.join(unknown)}; there are: "
            f"{', '.join([*METHODS, *VARIANTS])}"
        )
    return given


def check_trials(plan: ComparisonPlan) -> None:
    """Refuses more trials than each of the plan's methods has settings.

    Raises:
        UsageError: there are fewer.
    """
    least = min(len(method_class(method_of(run)[0]).TRIALS) for run in plan.runs)
    if plan.trials > least:
        raise UsageError(f"--trials {plan.trials}: every method has {least} settings to try")


def fixed_settings(recipe: Recipe, plan: ComparisonPlan) -> dict[str, Any]:
    """What all results of a folder have in common; seeds and methods may be added later."""
    # It brings torch, which `--help` can do without.
    from train.data.splits import fingerprint

    excluded = {"method", "options", "data"}
    return {
        "recipe": {k: v for k, v in written(recipe).items() if k not in excluded},
        "data": fingerprint(recipe.data),
        "trials": plan.trials,
        "protocol": PROTOCOL,
        "version": __version__,
    }


def is_other(folder: Path, fixed: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether a folder holds results of another comparison, which may be discarded.

    Args:
        folder: the comparison's.
        fixed: see `fixed_settings`; what it lacks is not looked at.
        overwrite: whether results of another comparison may be discarded.

    Raises:
        UsageError: it does, and they may not.
    """
    changed = [key for key, value in fixed.items() if stored_settings(folder).get(key) != value]
    if not changed or (not (folder / SETTINGS).exists() and not (folder / RESULTS).exists()):
        return False
    if not overwrite:
        raise UsageError(
            f"{folder} holds results of another comparison (other {', '.join(changed)}, see "
            f"its {SETTINGS}): choose another folder with --out, or discard them with --overwrite"
        )
    return True


def claim(folder: Path, fixed: Mapping[str, Any], overwrite: bool) -> None:
    """Makes a folder the comparison's own; arguments and errors as `is_other`."""
    if is_other(folder, fixed, overwrite):
        for name in (RESULTS, TRIALS, WORK):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in REPORT:
            (folder / name).unlink(missing_ok=True)
    write_atomic(folder / SETTINGS, json.dumps(fixed, indent=2) + "\n")


def stored_settings(folder: Path) -> dict[str, Any]:
    """What a folder's results have in common; empty where that is not known."""
    try:
        found = json.loads((folder / SETTINGS).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
