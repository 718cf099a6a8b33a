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
from typing import Annotated, Any

import typer

from dimml.errors import InterruptedRunError
from dimml.files import locked_folder, write_atomic
from dimml.progress import say
from train.config import Recipe, load_recipe
from train.folder import sigterm_as_ctrl_c
from train.methods import method_class
from train.plan import (
    RESULTS,
    TRIALS,
    WORK,
    Plan,
    check_trials,
    claim,
    fixed_settings,
    known_runs,
    method_of,
)


def compare(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    methods: Annotated[str, typer.Option(help="Names joined by commas; default all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    trials: Annotated[
        int, typer.Option(min=1, help="Settings tried per method, on validation, on one seed.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/NAME/compare.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, replacing the recipe's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard results of other settings.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Compare training methods under missing and corrupted modalities.

    Ctrl-C stops it (exit 3); the same command goes on, and runs nothing twice. The recipe's own
    `method` and `options` are not used.

    Examples:
        dimml compare train/recipes/digits.yaml

        dimml compare train/recipes/digits.yaml --methods dimml,joint --seeds 3
    """
    loaded = load_recipe(recipe, settings)
    folder = out or Path("runs") / loaded.name / "compare"
    first = loaded.seed
    plan = Plan(known_runs(methods), tuple(range(first, first + seeds)), trials)
    compare_runs(loaded, plan, folder, overwrite)
    from train.report import MARKDOWN, PAGE, write_report

    document = write_report(folder)
    shown = json.dumps(document, indent=2) if as_json else (folder / MARKDOWN).read_text()
    typer.echo(shown.rstrip())
    say(f"with figures: {folder / PAGE}")


def compare_runs(recipe: Recipe, plan: Plan, folder: Path, overwrite: bool) -> None:
    """Trains and measures what of the plan has no result in the folder yet.

    Raises:
        UsageError: the folder has results of another recipe or other data, or another process uses
            it; or a method has fewer settings than there are trials.
        InterruptedRunError: stopped by Ctrl-C or SIGTERM.
    """
    check_trials(plan)
    with locked_folder(folder, "comparing in", "another with --out"), sigterm_as_ctrl_c():
        claim(folder, fixed_settings(recipe, plan), overwrite)
        try:
            _run_all(recipe, plan, folder)
        except KeyboardInterrupt:
            done = sum(_result(folder, r, s).exists() for r in plan.runs for s in plan.seeds)
            raise InterruptedRunError(
                f"stopped with {done} of {len(plan.runs) * len(plan.seeds)} runs finished; the "
                f"same command goes on (the results are in {folder})"
            ) from None


def _run_all(recipe: Recipe, plan: Plan, folder: Path) -> None:
    todo = [(r, s) for s in plan.seeds for r in plan.runs if not _result(folder, r, s).exists()]
    total = len(plan.seeds) * len(plan.runs)
    if not todo:
        say(f"all {total} runs are finished")
        return
    from train.trial import Laboratory

    laboratory = Laboratory(recipe, folder / WORK, folder.parent / "cache")
    for number, (run, seed) in enumerate(todo, total - len(todo) + 1):
        say(f"run {number} of {total}: {run}, seed {seed}")
        documents = _documents(laboratory, run, seed, plan, folder)
        # A run is finished when its own file is there, so that is written last.
        for row in sorted(documents, key=lambda row: row == run):
            _write(_result(folder, row, seed), documents[row])
    shutil.rmtree(folder / WORK, ignore_errors=True)


def _documents(
    laboratory: Any, run: str, seed: int, plan: Plan, folder: Path
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
            found = laboratory.run(run, method, options, trial, first)
            _write(path, {"score": found.score, "documents": found.documents})
        tried.append(json.loads(path.read_text()))
    best = max(range(len(grid)), key=lambda number: tried[number]["score"])
    if seed == first:
        return dict(tried[best]["documents"])
    return dict(laboratory.run(run, method, options, grid[best], seed).documents)


def _result(folder: Path, row: str, seed: int) -> Path:
    return folder / RESULTS / row / f"seed-{seed}.json"


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
