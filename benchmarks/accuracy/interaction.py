"""Measure where interaction between modalities pays: the DUC loss and the shared classifier.

Run `python -m benchmarks.accuracy.interaction [GROUP...]` after `make serve` has created
`runs/digits`. Each group changes the training data, and trains its arms with several seeds by the
protocol of `dimml compare`. An interrupted run resumes with the same command. Finished groups are
written to `benchmarks/results/interaction.json` and `interaction.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.accuracy.interaction_report import FIGURES, markdown
from benchmarks.accuracy.tables import (
    KEPT_SHARE,
    Change,
    Rows,
    draw_rows,
    few_labels,
    few_recordings,
    read_rows,
    write_table,
)
from benchmarks.options import DIGITS
from benchmarks.results import RESULTS, write_result
from dimml.errors import DimmlError, TrainingError, UsageError
from dimml.machine import SOURCE_ROOT
from dimml.progress import print_status
from train.compare.results import RESULTS as RUN_RESULTS
from train.compare.results import measured_scope, read_results
from train.compare.runner import ComparisonPlan, compare_runs
from train.compare.statistics import mean_and_deviation, paired
from train.compare.summary import run_measures
from train.recipe import load_recipe

RECIPE = SOURCE_ROOT / "train" / "recipes" / "digits.yaml"
TABLE = DIGITS / "data" / "manifest.parquet"
WORK = SOURCE_ROOT / "runs" / "interaction"


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        run: Name of a run of `dimml compare`.
        settings: Settings in addition to those of the recipe and the group.
    """

    run: str
    settings: tuple[str, ...] = ()


STRONG = ("training.normalize=true", "training.duc_temperature=0.1", "training.lambda_duc=3")
"""A DUC loss that compares normalized features, with a higher weight."""


@dataclass(frozen=True)
class Group:
    """Arms that train on the same data.

    Attributes:
        title: Description of the data.
        change: Makes the training rows of the group from all training rows.
        arms: Arms by title. The first arm is compared with each of the others.
        settings: Settings of all arms, in addition to those of the recipe.
    """

    title: str
    change: Change
    arms: Mapping[str, Arm]
    settings: tuple[str, ...] = ()


def _keep_all(rows: Rows, generator: np.random.Generator) -> Rows:
    return rows


def _few_rows(rows: Rows, generator: np.random.Generator) -> Rows:
    """Keep a share of the rows, each as often as an epoch of `few_labels` uses it."""
    kept = [rows[number] for number in sorted(draw_rows(rows, generator))]
    repeats = 2 * round(1 / KEPT_SHARE - 1)
    return [{**row, "id": f"{row['id']}-{n}"} for n in range(repeats) for row in kept]


def _unpaired(rows: Rows, generator: np.random.Generator) -> Rows:
    names = ("audio", "image", "text")
    unpaired = []
    for row in rows:
        present = [name for name in names if row[name] is not None]
        if present:
            kept = generator.choice(present)
            unpaired.append({**row, **{name: None for name in names if name != kept}})
    return unpaired


SHORT = ("training.epochs=8", "training.warm_up=3")
GROUPS: dict[str, Group] = {
    "unlabelled": Group(
        "One training row in ten has a label; the others take part in the DUC loss",
        few_labels,
        {
            "dimml, strong DUC": Arm("dimml", STRONG),
            "dimml, the paper's DUC": Arm("dimml"),
            "dimml without DUC": Arm("dimml-no-duc"),
            "dimml, strong DUC, private classifiers": Arm("dimml-no-shared", STRONG),
            "ume": Arm("ume"),
            "mla": Arm("mla"),
        },
        SHORT,
    ),
    "unpaired": Group(
        "Every training row has one modality",
        _unpaired,
        {
            "dimml": Arm("dimml"),
            "dimml, private classifiers": Arm("dimml-no-shared"),
            "ume": Arm("ume"),
            "mla": Arm("mla"),
        },
    ),
    "weak": Group(
        "One training row in ten has audio",
        few_recordings,
        {
            "dimml": Arm("dimml"),
            "dimml, strong DUC": Arm("dimml", STRONG),
            "dimml without DUC": Arm("dimml-no-duc"),
            "ume": Arm("ume"),
        },
    ),
    "warm-up": Group(
        "All data; the DUC loss starts earlier or later, or is stronger",
        _keep_all,
        {
            "dimml (after 5 of 14 epochs)": Arm("dimml"),
            "from the start": Arm("dimml", ("training.warm_up=0",)),
            "after 10 epochs": Arm("dimml", ("training.warm_up=10",)),
            "strong DUC": Arm("dimml", STRONG),
        },
    ),
    "few": Group(
        "One training row in ten is kept",
        _few_rows,
        {"dimml, strong DUC": Arm("dimml", STRONG), "dimml without DUC": Arm("dimml-no-duc")},
        SHORT,
    ),
}


def main(
    groups: Annotated[
        list[str] | None, typer.Argument(help="Names of groups; default all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    report: Annotated[
        bool, typer.Option("--report", help="Only write the report of finished groups.")
    ] = False,
) -> None:
    """Train and measure the groups that are not finished.

    Examples:
        python -m benchmarks.accuracy.interaction unlabelled --seeds 3
    """
    names = groups or list(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        raise typer.BadParameter(f"unknown group {', '.join(unknown)}; known: {', '.join(GROUPS)}")
    if not report:
        for name in names:
            # One seed of every arm at a time, so that an interrupted run has equally many of each.
            for count in range(1, seeds + 1):
                _train(name, count)
    # Figures of groups that are not measured here stay as they are.
    path = RESULTS / "interaction.json"
    earlier = json.loads(path.read_text())["groups"] if path.exists() else {}
    measured = {name: figures for name in GROUPS if (figures := _figures(name))}
    if not measured:
        raise UsageError(f"{WORK} has no finished group; run without --report")
    merged = {**earlier, **measured}
    figures = {"groups": {name: merged[name] for name in GROUPS if name in merged}}
    typer.echo(markdown(write_result("interaction", figures, markdown)))


def _train(name: str, seeds: int) -> None:
    group = GROUPS[name]
    table = WORK / name / "manifest.parquet"
    if not table.exists():
        _write_table(group.change, table)
    by_settings: dict[tuple[str, ...], list[str]] = {}
    for arm in group.arms.values():
        by_settings.setdefault(arm.settings, []).append(arm.run)
    for settings, runs in by_settings.items():
        print_status(f"{name}: {', '.join(runs)} {' '.join(settings)}, {seeds} seeds")
        recipe = load_recipe(RECIPE, [f"data={table}", *group.settings, *settings])
        plan = ComparisonPlan(tuple(runs), tuple(range(seeds)), 1)
        if failed := compare_runs(recipe, plan, _folder(name, settings), False):
            raise TrainingError("; ".join(failed))


def _folder(name: str, settings: Sequence[str]) -> Path:
    words = [setting.rpartition(".")[2].replace("=", "-") for setting in settings]
    return WORK / name / "_".join(words or ["recipe"])


def _write_table(change: Change, path: Path) -> None:
    if not TABLE.exists():
        raise UsageError(f"{TABLE} does not exist; create it: dimml data digits {TABLE.parent}")
    train = change(read_rows(TABLE, "train"), np.random.default_rng(0))
    rest = [row for split in ("validation", "test") for row in read_rows(TABLE, split)]
    write_table(path, train + rest, TABLE.parent)


def _figures(name: str) -> dict[str, Any]:
    """Return each arm's figures, and the first arm minus this arm, paired by seed."""
    group = GROUPS[name]
    by_arm: dict[str, dict[int, dict[str, float | None]]] = {}
    for title, arm in group.arms.items():
        folder = _folder(name, arm.settings)
        if not (folder / RUN_RESULTS / arm.run).exists():
            continue
        results = read_results(folder)
        scope = measured_scope(results)
        by_arm[title] = {
            result.seed: {
                **{key: run_measures(result, scope)[key] for key in FIGURES},
                **{s: result.subsets.get(s, {}).get("accuracy") for s in scope.subsets},
            }
            for result in results
            if result.method == arm.run
        }
    if not by_arm:
        return {}
    first = next(iter(by_arm.values()))
    keys = list(next(iter(first.values())))

    def by_seed(seeds: Mapping[int, Mapping[str, float | None]], key: str) -> dict[int, Any]:
        return {seed: figures[key] for seed, figures in seeds.items()}

    return {
        "title": group.title,
        "settings": list(group.settings),
        "arms": {
            title: {
                "seeds": sorted(seeds),
                "settings": list(group.arms[title].settings),
                "figures": {key: mean_and_deviation(by_seed(seeds, key).values()) for key in keys},
                "differences": {
                    key: paired(by_seed(first, key), by_seed(seeds, key)) for key in keys
                },
            }
            for title, seeds in by_arm.items()
        },
    }


if __name__ == "__main__":
    try:
        typer.run(main)
    except DimmlError as error:
        print_status(f"error: {error}")
        raise SystemExit(error.exit_code) from None
