"""`dimml compare`: training methods on the same data, seeds and budget, by one protocol.

A comparison is a folder: `settings.json` (what all its results share),
`results/<row>/seed-<n>.json`, with several trials also `trials/<run>/<number>.json`, `work`
(checkpoints of the training in progress), and the report: `compare.json`, `report.md` and
`report.html`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimml import __version__
from dimml.errors import InterruptedRunError, TrainingError, UsageError
from dimml.files import locked_folder, write_atomic
from dimml.interrupt import sigterm_as_ctrl_c
from dimml.progress import print_status
from dimml.table import TableLayout
from train.compare.results import (
    REPORT_FILES,
    RESULTS,
    SETTINGS,
    TRIALS,
    WORK,
    read_result,
    stored_settings,
)
from train.methods import METHODS, VARIANTS, method_class, method_of
from train.recipe import Recipe
from train.training_config import TrainingConfig

if TYPE_CHECKING:
    from train.compare.trial import TrialRunner

PROTOCOL = 2
"""Raised by every change that makes older results incomparable."""
DIVERGED = -1.0
"""The score of a trial that diverged, worse than any accuracy."""

LATER_SETTINGS = (
    *("precision", "class_weights", "patience"),
    *("optimizer", "momentum", "schedule", "step_epochs", "step_factor"),
)
"""Settings of `training` that folders of earlier comparisons lack, where they have defaults."""


@dataclass(frozen=True)
class ComparisonPlan:
    """The methods or variants to run, their seeds, and how many settings the first seed tries."""

    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int

    @property
    def total(self) -> int:
        """The number of trainings."""
        return len(self.runs) * len(self.seeds)


def parse_runs(names: str) -> tuple[str, ...]:
    """Return the distinct runs of a list joined by commas; all methods for an empty list.

    Raises:
        UsageError: If a name is neither a method nor a variant.
    """
    listed = tuple(dict.fromkeys(n for n in map(str.strip, names.split(",")) if n)) or (*METHODS,)
    if unknown := [name for name in listed if name not in METHODS and name not in VARIANTS]:
        raise UsageError(
            f"--methods: no method {', '.join(unknown)}; there are: "
            f"{', '.join([*METHODS, *VARIANTS])}"
        )
    return listed


def compare_runs(recipe: Recipe, plan: ComparisonPlan, folder: Path, overwrite: bool) -> list[str]:
    """Train and measure every run of the plan that has no result in the folder.

    Returns:
        A line for each run that diverged; the other runs are measured all the same.

    Raises:
        UsageError: If the folder has results of another recipe or other data, another process
            uses it, or a method has fewer settings than there are trials.
        InterruptedRunError: If Ctrl-C or SIGTERM stopped the comparison.
    """
    settings = min(len(method_class(method_of(run)[0]).TRIALS) for run in plan.runs)
    if plan.trials > settings:
        raise UsageError(f"--trials {plan.trials}: every method has {settings} settings to try")
    with locked_folder(folder, "comparing in", "another with --out"), resumable(plan, folder):
        return _run_all(recipe, plan, folder, overwrite)


@contextmanager
def resumable(plan: ComparisonPlan, folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM in the block into an error that says how to resume.

    Raises:
        InterruptedRunError: If the block was interrupted.
    """
    with sigterm_as_ctrl_c():
        try:
            yield
        except KeyboardInterrupt:
            done = sum(_result(folder, r, s).exists() for r in plan.runs for s in plan.seeds)
            raise InterruptedRunError(
                f"stopped with {done} of {plan.total} runs finished; the same command goes on (the "
                f"results are in {folder})"
            ) from None


def _run_all(recipe: Recipe, plan: ComparisonPlan, folder: Path, overwrite: bool) -> list[str]:
    shared = _shared_settings(recipe, plan)
    if not _is_other_comparison(folder, shared, overwrite) and not _unfinished(plan, folder):
        print_status(f"all {plan.total} runs are finished; the data are not read again")
        return []
    # Training code loads torch, which a refused comparison does not need.
    from train.compare.trial import TrialRunner

    runner = TrialRunner(recipe, folder / WORK, folder.parent / "cache")
    # The new data are read by now, so results are not discarded for data that cannot be used.
    _claim_folder(folder, {**shared, "samples": runner.samples}, overwrite)
    unfinished = _unfinished(plan, folder)
    failures = []
    for number, (run, seed) in enumerate(unfinished, plan.total - len(unfinished) + 1):
        print_status(f"run {number} of {plan.total}: {run}, seed {seed}")
        try:
            documents = _run(runner, run, seed, plan, folder)
        except TrainingError as error:
            failures.append(f"{run}, seed {seed}: {error}")
            print_status(f"failed: {failures[-1]}")
            continue
        # The run's own file marks the run as finished, so it is written last.
        for row in sorted(documents, key=lambda row: row == run):
            _write(_result(folder, row, seed), documents[row])
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return failures


def _unfinished(plan: ComparisonPlan, folder: Path) -> list[tuple[str, int]]:
    return [(r, s) for s in plan.seeds for r in plan.runs if not _is_finished(folder, r, s)]


def _is_finished(folder: Path, run: str, seed: int) -> bool:
    """Return whether the results of a run and of all rows of the same training exist."""
    path = _result(folder, run, seed)
    return path.exists() and all(
        _result(folder, row, seed).exists() for row in read_result(path).rows
    )


def _run(
    runner: TrialRunner, run: str, seed: int, plan: ComparisonPlan, folder: Path
) -> Mapping[str, Any]:
    """Train with the settings that did best on validation; return the document of each row."""
    method, options = method_of(run)
    trials = method_class(method).TRIALS[: plan.trials]
    if len(trials) == 1:
        return runner.run(run, method, options, trials[0], seed).documents
    tried = []
    for number, trial in enumerate(trials):
        path = folder / TRIALS / run / f"{number}.json"
        if not path.exists():
            try:
                outcome = runner.run(run, method, options, trial, plan.seeds[0])
                _write(path, {"score": outcome.score, "documents": outcome.documents})
            except TrainingError as error:
                print_status(f"trial failed: {error}")
                _write(path, {"score": DIVERGED, "documents": {}})
        tried.append(_read_trial(path))
    best = max(range(len(trials)), key=lambda number: tried[number]["score"])
    if tried[best]["score"] == DIVERGED:
        raise TrainingError("it diverged with all of its settings")
    if seed == plan.seeds[0]:
        return dict(tried[best]["documents"])
    return runner.run(run, method, options, trials[best], seed).documents


def _read_trial(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise UsageError(f"{path}: {error}; remove it and run `dimml compare` again") from error


def _result(folder: Path, row: str, seed: int) -> Path:
    return folder / RESULTS / row / f"seed-{seed}.json"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _shared_settings(recipe: Recipe, plan: ComparisonPlan) -> dict[str, Any]:
    """Return what all results of a folder share; seeds and methods may be added later."""
    from train.data.splits import tables_sha256

    # Each training of a comparison uses one device, whatever the recipe says, and a logger changes
    # no result.
    training = {"devices", "logger"}
    excluded: Any = {"method": True, "options": True, "data": True, "training": training}
    document = recipe.model_dump(mode="json", exclude=excluded)
    for modality in document["modalities"].values():
        del modality["column"]
    if (layout := recipe.source.layout) != TableLayout():
        document["table"] = layout.model_dump(mode="json")
    for name in LATER_SETTINGS:
        if document["training"][name] == TrainingConfig.model_fields[name].default:
            del document["training"][name]
    return {
        "recipe": document,
        "data": tables_sha256(recipe.data.table),
        "trials": plan.trials,
        "protocol": PROTOCOL,
        "version": __version__,
    }


def _is_other_comparison(folder: Path, shared: Mapping[str, Any], overwrite: bool) -> bool:
    """Return whether a folder holds results with other settings, which may be discarded.

    Raises:
        UsageError: If the folder holds such results and `overwrite` is false.
    """
    stored = stored_settings(folder)
    changed = [key for key, value in shared.items() if stored.get(key) != value]
    if not changed or not ((folder / SETTINGS).exists() or (folder / RESULTS).exists()):
        return False
    if not overwrite:
        raise UsageError(
            f"{folder} holds results of another comparison (other {', '.join(changed)}, see "
            f"its {SETTINGS}): choose another folder with --out, or discard them with --overwrite"
        )
    return True


def _claim_folder(folder: Path, shared: Mapping[str, Any], overwrite: bool) -> None:
    """Write the settings of a folder, after discarding results with other settings."""
    if _is_other_comparison(folder, shared, overwrite):
        for name in (RESULTS, TRIALS, WORK):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in REPORT_FILES:
            (folder / name).unlink(missing_ok=True)
    write_atomic(folder / SETTINGS, json.dumps(shared, indent=2) + "\n")
