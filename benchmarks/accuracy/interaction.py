"""Where interaction between the modalities pays: the DUC loss and the shared classifier, on digits.

Run as `python -m benchmarks.accuracy.interaction [GROUP…]` where `make serve` has made
`runs/digits`; each group changes the training data, trains its arms with several seeds by the
protocol of `dimml compare`, and stops and goes on like it. What is finished is written to
`benchmarks/results/interaction.json` and `interaction.md`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer

from benchmarks.accuracy.interaction_report import FIGURES, markdown
from dimml.errors import DimmlError, TrainingError, UsageError
from dimml.files import write_atomic
from dimml.machine import describe_machine
from dimml.progress import print_status
from train.compare.results import RESULTS, Result, measured_scope, read_results
from train.compare.runner import ComparisonPlan, compare_runs
from train.compare.statistics import mean_and_deviation, paired
from train.compare.summary import run_measures
from train.recipe import load_recipe

RECIPE = Path("train/recipes/digits.yaml")
TABLE = Path("runs/digits/data/manifest.parquet")
WORK = Path("runs/interaction")
TARGET = Path(__file__).parents[1] / "results"
SHARE = 0.1
"""Of the training rows that keep their label, or their audio."""

Rows = list[dict[str, Any]]
Change = Callable[[Rows, np.random.Generator], Rows]


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        run: of `dimml compare`.
        settings: beside the recipe's and the group's.
    """

    run: str
    settings: tuple[str, ...] = ()


STRONG = ("training.normalize=true", "training.duc_temperature=0.1", "training.lambda_duc=3")
"""The DUC loss of directions instead of lengths, weighted more."""


@dataclass(frozen=True)
class Group:
    """Arms on the same data.

    Attributes:
        title: what is special about the data.
        change: makes the training rows of a group out of all.
        arms: the first is what the others are compared with.
        settings: of all arms, beside the recipe's.
    """

    title: str
    change: Change
    arms: Mapping[str, Arm]
    settings: tuple[str, ...] = ()


def _all(rows: Rows, random: np.random.Generator) -> Rows:
    return rows


def _chosen(rows: Rows, random: np.random.Generator) -> set[int]:
    """`SHARE` of each class, by position."""
    found: list[int] = []
    labels = np.array([row["label"] for row in rows])
    for label in np.unique(labels):
        places = random.permutation(np.flatnonzero(labels == label))
        found += places[: round(SHARE * len(places))].tolist()
    return set(found)


def _few_labels(rows: Rows, random: np.random.Generator) -> Rows:
    chosen = _chosen(rows, random)
    return [row if n in chosen else {**row, "label": None} for n, row in enumerate(rows)]


def _few_rows(rows: Rows, random: np.random.Generator) -> Rows:
    """As often as in an epoch of `_few_labels`."""
    kept = [rows[number] for number in sorted(_chosen(rows, random))]
    repeats = 2 * round(1 / SHARE - 1)
    return [{**row, "id": f"{row['id']}-{n}"} for n in range(repeats) for row in kept]


def _weak_audio(rows: Rows, random: np.random.Generator) -> Rows:
    chosen = _chosen(rows, random)
    return [row if n in chosen else {**row, "audio": None} for n, row in enumerate(rows)]


def _unpaired(rows: Rows, random: np.random.Generator) -> Rows:
    names = ("audio", "image", "text")
    found = []
    for row in rows:
        present = [name for name in names if row[name] is not None]
        if present:
            kept = random.choice(present)
            found.append({**row, **{name: None for name in names if name != kept}})
    return found


SHORT = ("training.epochs=8", "training.warm_up=3")
GROUPS: dict[str, Group] = {
    "unlabelled": Group(
        "One training row in ten has a label; the others take part in the DUC loss",
        _few_labels,
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
        _weak_audio,
        {
            "dimml": Arm("dimml"),
            "dimml, strong DUC": Arm("dimml", STRONG),
            "dimml without DUC": Arm("dimml-no-duc"),
            "ume": Arm("ume"),
        },
    ),
    "warm-up": Group(
        "All data; the DUC loss joins earlier, later, or is stronger",
        _all,
        {
            "dimml (after 5 of 14 epochs)": Arm("dimml"),
            "from the start": Arm("dimml", ("training.warm_up=0",)),
            "after 10 epochs": Arm("dimml", ("training.warm_up=10",)),
            "strong DUC": Arm("dimml", STRONG),
        },
    ),
    "few": Group(
        "One training row in ten is there at all",
        _few_rows,
        {"dimml, strong DUC": Arm("dimml", STRONG), "dimml without DUC": Arm("dimml-no-duc")},
        SHORT,
    ),
}


def main(
    groups: Annotated[list[str] | None, typer.Argument(help="Names; default all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    report: Annotated[bool, typer.Option("--report", help="Only write what is finished.")] = False,
) -> None:
    """Train and measure; what is finished is not run again.

    Examples:
        python -m benchmarks.accuracy.interaction unlabelled --seeds 3
    """
    names = groups or list(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        raise typer.BadParameter(f"no group {', '.join(unknown)}; there are: {', '.join(GROUPS)}")
    if not report:
        for name in names:
            # By seed, so that a run that is stopped has as many of each arm.
            for count in range(1, seeds + 1):
                _train(name, count)
    # What was measured before stays until it is measured again.
    path = TARGET / "interaction.json"
    kept = json.loads(path.read_text())["groups"] if path.exists() else {}
    measured = {name: found for name in GROUPS if (found := _found(name))}
    if not measured:
        raise UsageError(f"nothing is finished in {WORK}; run it without --report")
    document = {
        "machine": describe_machine(),
        "groups": {n: g for n in GROUPS if (g := {**kept, **measured}.get(n))},
    }
    write_atomic(path, json.dumps(document, indent=2) + "\n")
    write_atomic(TARGET / "interaction.md", markdown(document))
    typer.echo(markdown(document))


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
        raise UsageError(f"{TABLE} is not there: make it with `dimml data digits {TABLE.parent}`")
    source = pq.read_table(TABLE)
    rows = source.to_pylist()
    train = change([row for row in rows if row["split"] == "train"], np.random.default_rng(0))
    changed = train + [row for row in rows if row["split"] != "train"]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its paths are relative to it.
    up = os.path.relpath(TABLE.parent, path.parent)
    for row in changed:
        for column in ("audio", "image"):
            row[column] = f"{up}/{row[column]}" if row[column] is not None else None
    part = path.with_suffix(".part")
    pq.write_table(source.from_pylist(changed, schema=source.schema), part)
    part.replace(path)


def _found(name: str) -> dict[str, Any]:
    """Each arm's figures, and the first arm less it, seed by seed."""
    group = GROUPS[name]
    by_arm: dict[str, dict[int, dict[str, float | None]]] = {}
    for title, arm in group.arms.items():
        folder = _folder(name, arm.settings)
        if not (folder / RESULTS / arm.run).exists():
            continue
        found = read_results(folder)
        scope = measured_scope(found)
        mine: list[Result] = [result for result in found if result.method == arm.run]
        by_arm[title] = {
            result.seed: {
                **{key: run_measures(result, scope)[key] for key in FIGURES},
                **{s: result.subsets.get(s, {}).get("accuracy") for s in scope.subsets},
            }
            for result in mine
        }
    if not by_arm:
        return {}
    first = next(iter(by_arm.values()))
    keys = list(next(iter(first.values())))
    return {
        "title": group.title,
        "settings": list(group.settings),
        "arms": {
            title: {
                "seeds": sorted(seeds),
                "settings": list(group.arms[title].settings),
                "figures": {
                    key: mean_and_deviation(one[key] for one in seeds.values()) for key in keys
                },
                "differences": {
                    key: paired(
                        {seed: one[key] for seed, one in first.items()},
                        {seed: one[key] for seed, one in seeds.items()},
                    )
                    for key in keys
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
