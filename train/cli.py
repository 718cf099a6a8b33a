"""The commands `dimml data`, `init`, `check`, `train`, `evaluate` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimml.errors import TrainingError, UsageError
from dimml.progress import print_status
from train.methods import METHODS, VARIANTS

RUNS = ", ".join([*METHODS, *VARIANTS])
VARIANT_RUNS = ", ".join(VARIANTS)
RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="A key=value that replaces the recipe's value.")
]
PrintJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def data(
    name: Annotated[
        str, typer.Argument(help="digits, avmnist, crema_d, ave, ucf101 or modelnet40.")
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="OUT, the folder to write. For all but digits ROOT OUT: first the folder of "
            "published files, see docs/data.md."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    split: Annotated[
        int | None, typer.Option(help="For ucf101: the official split, 1 (the default), 2 or 3.")
    ] = None,
    split_csv: Annotated[
        Path | None,
        typer.Option(
            help="For crema_d: a folder with train.csv and test.csv, or a CSV with the columns "
            "name and split; without it, no actor is in two splits."
        ),
    ] = None,
) -> None:
    """Write a data set: its files and the manifest that names them.

    Examples:
        dimml data digits runs/digits/data

        dimml data avmnist downloads/avmnist runs/avmnist/data

        dimml data crema_d downloads/CREMA-D runs/crema_d/data

        dimml data ave downloads/AVE_Dataset runs/ave/data

        dimml data ucf101 downloads/ucf101 runs/ucf101/data --split 2

        dimml data modelnet40 downloads/modelnet40_images_new_12x runs/modelnet40/data
    """
    import importlib

    from train.datasets import DATASETS, NEEDS_ROOT, OPTIONS

    if name not in DATASETS:
        raise UsageError(f"no data set {name!r}; choose one of: {', '.join(DATASETS)}")
    expected = ["ROOT", "OUT"] if name in NEEDS_ROOT else ["OUT"]
    paths = folders or []
    if len(paths) != len(expected):
        given = " ".join(map(str, paths)) or "no folder"
        raise UsageError(
            f"{name} takes {' and '.join(expected)}, but got {given}; call "
            f"`dimml data {name} {' '.join(expected)}`, see `dimml data --help`"
        )
    values = {"split": split, "split_csv": split_csv}
    options = {option: value for option, value in values.items() if value is not None}
    if other := next((option for option in options if OPTIONS[option] != name), None):
        flag = f"--{other.replace('_', '-')}"
        raise UsageError(f"{flag} is an option of {OPTIONS[other]}; {name} does not take it")
    typer.echo(importlib.import_module(DATASETS[name]).write(*paths, seed=seed, **options))


def init(
    table: Annotated[Path, typer.Argument(help="Table, folder or pattern of tables.")],
    recipe: Annotated[Path, typer.Argument(help="Recipe to write.")] = Path("recipe.yaml"),
    label: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing recipe.")
    ] = False,
    as_json: PrintJson = False,
) -> None:
    """Write a commented recipe for a table, from what its columns hold.

    Examples:
        dimml init products.csv

        dimml init 'exports/*.parquet' products.yaml --label Category
    """
    import json

    from train.init import write_recipe

    written = write_recipe(table, recipe, label, overwrite)
    for line in written.summary():
        print_status(line)
    document = json.dumps(written.document(), ensure_ascii=False, indent=2)
    typer.echo(document if as_json else recipe)


def check(recipe: RecipeFile, settings: Overrides = None, as_json: PrintJson = False) -> None:
    """Read all data of a recipe as training does, and report what is in them.

    Examples:
        dimml check products.yaml

        dimml check products.yaml --set data.label=Brand --json
    """
    import json

    from train.recipe import load_recipe

    loaded = load_recipe(recipe, settings)
    from train.check import check_data

    report = check_data(loaded)
    document = json.dumps(report.document(), ensure_ascii=False, indent=2)
    typer.echo(document if as_json else report.text())
    if report.failure:
        raise report.failure


def train(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME/run.")] = None,
    settings: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    as_json: PrintJson = False,
) -> None:
    """Train a recipe. Ctrl-C stops the run (exit 3); --resume continues it.

    Examples:
        dimml train train/recipes/digits.yaml

        dimml train train/recipes/digits.yaml --set training.epochs=5 --out runs/short
    """
    from train.recipe import load_recipe

    loaded = load_recipe(recipe, settings)
    folder = out or Path("runs") / loaded.name / "run"
    from train.run import RUN, train_run

    train_run(loaded, folder, resume)
    typer.echo((folder / RUN).read_text().strip() if as_json else folder)


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    table: Annotated[Path, typer.Argument(help="Table of labelled samples, folder or pattern.")],
    split: Annotated[str, typer.Option(help="Name of the split; all for every row.")] = "test",
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the bundle for its model card, such as apache-2.0."),
    ] = None,
    as_json: PrintJson = False,
) -> None:
    """Measure a bundle on every subset of its modalities, and write the report into it.

    evaluation.json has the figures, README.md is a model card for the Hugging Face Hub, and
    report.html also shows samples of the table, which `dimml package` leaves out.

    Examples:
        dimml evaluate runs/digits/bundle runs/digits/data/manifest.parquet
    """
    import json

    from dimml.bundle import EVALUATION
    from dimml.files import write_atomic
    from train.evaluate import answer_split, subset_table
    from train.model_card import model_card

    evaluated = answer_split(bundle, table, split)
    report = evaluated.document()
    document = json.dumps(report, indent=2)
    write_atomic(bundle / EVALUATION, document + "\n")
    write_atomic(bundle / "README.md", model_card(bundle, report, license))
    from train.report.evaluation import report_document, write_report

    page = write_report(bundle, report_document(evaluated, report))
    typer.echo(document if as_json else subset_table(report))
    print_status(f"with figures and examples: {page}")


def compare(
    recipe: RecipeFile,
    methods: Annotated[
        str, typer.Option(help=f"Names joined by commas: {RUNS}; default all but {VARIANT_RUNS}.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    trials: Annotated[
        int, typer.Option(min=1, help="Settings to try per method, on validation, with one seed.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder; default runs/NAME/compare. Decoded data go into `cache` beside it."
        ),
    ] = None,
    settings: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard results of other settings.")
    ] = False,
    as_json: PrintJson = False,
) -> None:
    """Compare training methods under missing and corrupted modalities.

    Ctrl-C stops the comparison (exit 3); the same command continues it and runs nothing twice. The
    recipe's own `method` and `options` are not used.

    Examples:
        dimml compare train/recipes/digits.yaml

        dimml compare train/recipes/digits.yaml --methods dimml,joint --seeds 3
    """
    import json

    from train.compare.results import MARKDOWN, PAGE, RESULTS
    from train.compare.runner import ComparisonPlan, compare_runs, parse_runs, resumable
    from train.recipe import load_recipe

    loaded = load_recipe(recipe, settings)
    folder = out or Path("runs") / loaded.name / "compare"
    first = loaded.seed
    plan = ComparisonPlan(parse_runs(methods), tuple(range(first, first + seeds)), trials)
    failed = compare_runs(loaded, plan, folder, overwrite)
    failure = TrainingError(f"{len(failed)} of {plan.total} runs failed: {'; '.join(failed)}")
    if not any((folder / RESULTS).glob("*/*.json")):
        raise failure
    with resumable(plan, folder):
        from train.compare.report import write_report

        document = write_report(folder)
    shown = json.dumps(document, indent=2) if as_json else (folder / MARKDOWN).read_text()
    typer.echo(shown.rstrip())
    print_status(f"with figures: {folder / PAGE}")
    if failed:
        raise failure
