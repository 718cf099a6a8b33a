"""`dimml compare`: training methods on the same data, seeds and budget, by one protocol.

The folder: `settings.json` (what may not change), `results/<row>/seed-<n>.json`, with several
trials `trials/<run>/<number>.json`, `work`, checkpoints of the training that is under way, and the
report: `compare.json`, `report.md` and `report.html`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimml.errors import InterruptedRunError, TrainingError, UsageError
from dimml.files import locked_folder, write_atomic
from dimml.interrupt import sigterm_as_ctrl_c
from dimml.progress import print_status
from train.compare.plan import (
    RESULTS,
    TRIALS,
    WORK,
    ComparisonPlan,
    check_trials,
    claim,
    fixed_settings,
    is_other,
    method_of,
)
from train.compare.results import read_result
from train.methods import method_class
from train.recipe import Recipe


def compare_runs(recipe: Recipe, plan: ComparisonPlan, folder: Path, overwrite: bool) -> list[str]:
    """Trains and measures what of the plan has no result in the folder yet.

    Returns:
        What diverged, a line each; the others are measured all the same.

    Raises:
        UsageError: the folder has results of another recipe or other data, or another process uses
            it; or a method has fewer settings than there are trials.
        InterruptedRunError: stopped by Ctrl-C or SIGTERM.
    """
    check_trials(plan)
    with locked_folder(folder, "comparing in", "another with --out"), sigterm_as_ctrl_c():
        try:
            return _run_all(recipe, plan, folder, overwrite)
        except KeyboardInterrupt:
            raise stopped(plan, folder) from None


def _run_all(recipe: Recipe, plan: ComparisonPlan, folder: Path, overwrite: bool) -> list[str]:
    fixed = fixed_settings(recipe, plan)
    if not is_other(folder, fixed, overwrite) and not _unfinished(plan, folder):
        print_status(f"all {total(plan)} runs are finished; the data are not read again")
        return []
    from train.compare.trial import Laboratory

    laboratory = Laboratory(recipe, folder / WORK, folder.parent / "cache")
    # Nothing is discarded before the new data are known to do.
    claim(folder, {**fixed, "samples": laboratory.samples}, overwrite)
    todo = _unfinished(plan, folder)
    failed = []
    for number, (run, seed) in enumerate(todo, total(plan) - len(todo) + 1):
        print_status(f"run {number} of {total(plan)}: {run}, seed {seed}")
        try:
            documents = _documents(laboratory, run, seed, plan, folder)
        except TrainingError as error:
            failed.append(f"{run}, seed {seed}: {error}")
            print_status(f"failed: {failed[-1]}")
            continue
        # A run is finished when its own file is there, so that is written last.
        for row in sorted(documents, key=lambda row: row == run):
            _write(_result(folder, row, seed), documents[row])
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return failed


def total(plan: ComparisonPlan) -> int:
    """How many runs a plan has."""
    return len(plan.runs) * len(plan.seeds)


def _unfinished(plan: ComparisonPlan, folder: Path) -> list[tuple[str, int]]:
    runs = [(run, seed) for seed in plan.seeds for run in plan.runs]
    return [(run, seed) for run, seed in runs if not _is_finished(folder, run, seed)]


def _is_finished(folder: Path, run: str, seed: int) -> bool:
    """Whether a run's result is there, and all rows that came out of the same training."""
    path = _result(folder, run, seed)
    if not path.exists():
        return False
    rows = read_result(path).rows
    return all(_result(folder, row, seed).exists() for row in rows)


def stopped(plan: ComparisonPlan, folder: Path) -> InterruptedRunError:
    """The error of a comparison that was stopped: how far it came, and how it goes on."""
    done = sum(_result(folder, r, s).exists() for r in plan.runs for s in plan.seeds)
    return InterruptedRunError(
        f"stopped with {done} of {total(plan)} runs finished; the same command goes on (the "
        f"results are in {folder})"
    )


def _documents(
    laboratory: Any, run: str, seed: int, plan: ComparisonPlan, folder: Path
) -> dict[str, dict[str, Any]]:
    """Row to result. The first seed's is that of the trial that did best on validation."""
    method, options = method_of(run)
    grid = method_class(method).TRIALS[: plan.trials]
    if len(grid) == 1:
        return dict(laboratory.run(run, method, options, grid[0], seed).documents)
    first = plan.seeds[0]
    tried = []
    for number, trial in enumerate(grid):
        path = folder / TRIALS / run / f"{number}.json"
        if not path.exists():
            _write(path, _tried(laboratory, run, method, options, trial, first))
        tried.append(_read(path))
    best = max(range(len(grid)), key=lambda number: tried[number]["score"])
    if tried[best]["score"] < 0:
        raise TrainingError("it diverged with all of its settings")
    if seed == first:
        return dict(tried[best]["documents"])
    return dict(laboratory.run(run, method, options, grid[best], seed).documents)


def _tried(laboratory: Any, *trial: Any) -> dict[str, Any]:
    """Score and documents of a trial; what diverged is worse than anything."""
    try:
        found = laboratory.run(*trial)
    except TrainingError as error:
        print_status(f"trial failed: {error}")
        return {"score": -1.0, "documents": {}}
    return {"score": found.score, "documents": found.documents}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path}: {error}; remove it and run `dimml compare` again") from error
    return found


def _result(folder: Path, row: str, seed: int) -> Path:
    return folder / RESULTS / row / f"seed-{seed}.json"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
