"""Compare all training methods on a panel of data sets, by the protocol of `dimml compare`.

Run `python -m benchmarks.accuracy.panel [SET...]`. The sets are in `panel_sets.py`. Those made from
the digits need `runs/digits`, which `make serve` creates; those of avMNIST need its published files
(`--avmnist`), and some of them pretrained models (`--models`). A set whose data or models are
missing is skipped. As many sets train at a time as there are cores, each on one thread. An
interrupted run resumes with the same command, and a command with more methods or seeds trains only
the new ones. Finished sets are written to `benchmarks/results/panel.json` and `panel.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.accuracy.panel_report import markdown, panel_figures, set_figures
from benchmarks.accuracy.panel_sets import SETS, WORK, Sources, load_set, write_tables
from benchmarks.accuracy.processes import run_parallel
from benchmarks.results import RESULTS, write_result
from dimml.errors import DimmlError, TrainingError, UsageError
from dimml.files import write_atomic
from dimml.machine import available_cores
from dimml.progress import print_status
from train.compare.results import RESULTS as RUN_RESULTS
from train.compare.results import Result, read_results
from train.compare.runner import ComparisonPlan, compare_runs, parse_runs

MODULE = "benchmarks.accuracy.panel"


def main(
    sets: Annotated[list[str] | None, typer.Argument(help="Names of sets; default all.")] = None,
    methods: Annotated[str, typer.Option(help="Names joined by commas; default all.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    trials: Annotated[
        int, typer.Option(min=1, help="Settings to try per method, on validation, with one seed.")
    ] = 1,
    avmnist: Annotated[
        Path | None,
        typer.Option(help="Published files of avMNIST; default DIMML_TEST_DATA/avmnist."),
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folders of the models; default DIMML_TEST_MODELS.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Only write the report of finished sets.")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Train in this process, and write no report.")
    ] = False,
) -> None:
    """Train and measure what is not finished, and write the report.

    Ctrl-C stops all trainings (exit 3); the same command goes on.

    Examples:
        python -m benchmarks.accuracy.panel --avmnist downloads/avmnist --models downloads/models

        python -m benchmarks.accuracy.panel digits noise --methods dimml,mla --seeds 3
    """
    names = sets or list(SETS)
    if unknown := [name for name in names if name not in SETS]:
        raise typer.BadParameter(f"unknown set {', '.join(unknown)}; known: {', '.join(SETS)}")
    runs = parse_runs(methods)
    sources = Sources.from_options(avmnist, models)
    if here:
        for name in names:
            train_set(name, ComparisonPlan(runs, tuple(range(seeds)), trials), sources)
        return
    failed: list[str] = []
    if not report:
        ready = usable_sets(names, sources)
        if not ready:
            raise UsageError("no set can be trained; see the lines above")
        options = ["--methods", ",".join(runs), "--seeds", str(seeds), "--trials", str(trials)]
        for option, folder in (("--avmnist", sources.avmnist), ("--models", sources.models)):
            options += [option, str(folder)] if folder else []
        for name in ready:
            write_tables(name, sources, seeds)
        failed = run_parallel(
            {name: ["-m", MODULE, name, "--here", *options] for name in ready},
            {name: WORK / name / "log.txt" for name in ready},
            available_cores(),
        )
    typer.echo(write_report(trials))
    if failed:
        raise TrainingError(f"not finished: {', '.join(failed)}; run the same command again")


def usable_sets(names: Iterable[str], sources: Sources) -> list[str]:
    """Return the sets that can be trained, and print what is missing for each of the others."""
    usable = []
    for name in names:
        if problem := SETS[name].problem(sources):
            print_status(f"{name}: skipped; {problem}")
        else:
            usable.append(name)
    return usable


def train_set(name: str, plan: ComparisonPlan, sources: Sources) -> None:
    """Train and measure all runs of a set that have no result, and record the set as finished.

    Raises:
        InterruptedRunError: If Ctrl-C or SIGTERM stopped it.
    """
    write_tables(name, sources, len(plan.seeds))
    failed: list[str] = []
    for data_seed in SETS[name].data_seeds(len(plan.seeds)):
        part = plan
        if SETS[name].by_speaker:
            print_status(f"seed {data_seed} of 0 to {plan.seeds[-1]}")
            part = ComparisonPlan(plan.runs, (data_seed,), plan.trials)
        recipe = load_set(name, sources, data_seed)
        folder = WORK / name / f"{_folder_name(name, data_seed)}{_suffix(plan.trials)}"
        failed += compare_runs(recipe, part, folder, overwrite=False)
    _record(name, plan, failed)


def set_results(name: str, trials: int) -> tuple[list[Result], list[str]]:
    """Return the results of a set's finished methods and seeds, and its trainings that failed."""
    finished = _finished(name, trials)
    seeds: dict[str, int] = finished["seeds"]
    results: list[Result] = []
    for data_seed in SETS[name].data_seeds(max(seeds.values(), default=0)):
        folder = WORK / name / f"{_folder_name(name, data_seed)}{_suffix(trials)}"
        if (folder / RUN_RESULTS).exists():
            results += read_results(folder)
    return [r for r in results if r.seed < seeds.get(r.method, 0)], finished["failed"]


def write_report(trials: int) -> str:
    """Write the result files of the finished sets, and return the report.

    Figures of sets that are not finished here stay as they are.
    """
    path = RESULTS / "panel.json"
    earlier: dict[str, Any] = json.loads(path.read_text())["sets"] if path.exists() else {}
    measured = {}
    for name, one in SETS.items():
        results, failed = set_results(name, trials)
        if results:
            measured[name] = set_figures(one.title, results, failed)
    if not measured:
        raise UsageError(f"{WORK} has no finished set; run without --report")
    merged = {**earlier, **measured}
    ordered = {name: merged[name] for name in SETS if name in merged}
    figures = {"trials": trials, "panel": panel_figures(ordered), "sets": ordered}
    return markdown(write_result("panel", figures, markdown))


def _folder_name(name: str, data_seed: int) -> str:
    return f"seed-{data_seed}" if SETS[name].by_speaker else "compare"


def _suffix(trials: int) -> str:
    """Return what tells the folders of several trials from those of one."""
    return "" if trials == 1 else f"-trials-{trials}"


def _finished(name: str, trials: int) -> dict[str, Any]:
    path = WORK / name / f"finished{_suffix(trials)}.json"
    empty: dict[str, Any] = {"seeds": {}, "failed": []}
    return dict(json.loads(path.read_text())) if path.exists() else empty


def _record(name: str, plan: ComparisonPlan, failed: Sequence[str]) -> None:
    """Record how many seeds of each method are finished, and which trainings failed."""
    before = _finished(name, plan.trials)
    seeds = {run: max(len(plan.seeds), before["seeds"].get(run, 0)) for run in plan.runs}
    others = [line for line in before["failed"] if line.partition(",")[0] not in plan.runs]
    document = {"seeds": {**before["seeds"], **seeds}, "failed": [*others, *failed]}
    path = WORK / name / f"finished{_suffix(plan.trials)}.json"
    write_atomic(path, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    try:
        typer.run(main)
    except DimmlError as error:
        print_status(f"error: {error}")
        raise SystemExit(error.exit_code) from None
