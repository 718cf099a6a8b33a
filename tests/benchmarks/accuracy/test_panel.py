from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import panel
from benchmarks.accuracy.panel_report import markdown, panel_figures, set_figures
from benchmarks.accuracy.panel_sets import Sources
from benchmarks.accuracy.processes import run_parallel
from dimml.machine import SOURCE_ROOT
from train.compare.results import Result

MACHINE = {
    **{"processor": "P", "cores": 2, "memory_gib": 8, "system": "Linux", "python": "3.11"},
    "packages": {"torch": "2"},
}


def result(method: str, seed: int, accuracy: float) -> Result:
    """A result with an accuracy on full input, and 10 points less on each modality alone."""
    subsets = {
        name: {"accuracy": value, "ece": 0.02, "nll": 0.5, "risk_coverage_area": 0.1}
        for name, value in {
            "image": accuracy - 0.1,
            "text": accuracy - 0.1,
            "image+text": accuracy,
        }.items()
    }
    corruption = {"image": {"noise": {"1": {"accuracy": accuracy / 2}}}}
    return Result(
        method=method,
        seed=seed,
        seconds=10.0,
        subsets=subsets,
        corruption=corruption,
        modalities=("image", "text"),
    )


def results(accuracies: Mapping[str, Sequence[float]]) -> list[Result]:
    return [
        result(method, seed, accuracy)
        for method, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]


def figures_of(accuracies: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return set_figures("Some data", results(accuracies))


CLEAR = {"dimml": [0.9, 0.91, 0.92], "joint": [0.8, 0.81, 0.821], "mla": [0.7, 0.71, 0.73]}


def test_row_has_accuracy_under_corruption_and_the_share_kept() -> None:
    figures = figures_of(CLEAR)["methods"]["dimml"]["figures"]
    assert figures["full"]["mean"] == pytest.approx(0.91)
    assert figures["worst"]["mean"] == pytest.approx(0.81)
    assert figures["robustness"]["mean"] == pytest.approx(0.5)
    assert figures["corrupted"]["mean"] == pytest.approx(0.455)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.9, 0.91, 0.92], "ahead"),
        ([0.81, 0.80, 0.82], "within noise of the best"),
        ([0.7, 0.71, 0.72], "behind"),
        ([0.9], "one seed settles nothing"),
    ],
)
def test_verdict_follows_the_interval_of_the_best_other(ours: list[float], verdict: str) -> None:
    figures = figures_of({**CLEAR, "dimml": ours})
    assert figures["verdict"]["best"] == "joint"
    assert figures["verdict"]["verdict"] == verdict


def test_set_without_dimml_has_no_verdict() -> None:
    assert figures_of({"joint": [0.8, 0.9]})["verdict"] is None


def test_panel_mean_is_over_sets_and_paired_by_seed() -> None:
    panel_sets = {
        "a": figures_of({"dimml": [0.9, 0.8], "joint": [0.8, 0.69]}),
        "b": figures_of({"dimml": [0.7, 0.6], "joint": [0.5, 0.41]}),
    }
    joint = panel_figures(panel_sets)["joint"]
    # The mean over the three subsets is the full accuracy less two thirds of 10 points.
    assert joint["figures"]["mean"]["mean"] == pytest.approx(0.6 - 0.2 / 3)
    assert joint["difference"]["seeds"] == [0, 1]
    assert joint["difference"]["mean"] == pytest.approx((0.15 + 0.15) / 2)


def test_method_that_lacks_a_set_has_no_panel_mean() -> None:
    panel_sets = {"a": figures_of(CLEAR), "b": figures_of({"dimml": [0.7, 0.6, 0.5]})}
    figures = panel_figures(panel_sets)
    assert figures["joint"]["figures"]["mean"]["mean"] is None
    assert figures["joint"]["difference"] is None
    assert figures["joint"]["ahead"] == 1
    assert figures["dimml"]["figures"]["mean"]["mean"] is not None


def test_report_has_a_row_for_each_set_and_method() -> None:
    sets = {"a": figures_of(CLEAR), "b": set_figures("Others", results(CLEAR), ["mla: diverged"])}
    # A report is made of figures that were written and read again.
    document = json.loads(
        json.dumps({"machine": MACHINE, "panel": panel_figures(sets), "sets": sets})
    )
    text = markdown(document)
    assert text.count("| **dimml** |") == 3
    assert text.count("| joint |") == 3
    assert "| a | 84.33 ± 1.00 | joint 74.37 ± 1.05 |" in text
    assert "| ahead |" in text
    assert "- mla: diverged" in text
    assert "P, 2 cores" in text


def test_set_without_its_data_is_skipped_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = Sources(digits=tmp_path, avmnist=tmp_path / "none")
    assert panel.usable_sets(["digits", "avmnist"], sources) == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("digits: skipped; the digits are missing")
    assert lines[1].startswith(f"avmnist: skipped; {tmp_path}/none")


def test_report_counts_only_finished_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "WORK", tmp_path)
    for seed in (0, 1):
        path = tmp_path / f"avmnist/seed-{seed}/results/joint/seed-{seed}.json"
        path.parent.mkdir(parents=True)
        path.write_text(result("joint", seed, 0.8).model_dump_json())
    assert panel.set_results("avmnist", 1) == ([], [])
    (tmp_path / "avmnist/finished.json").write_text('{"seeds": {"joint": 1}, "failed": ["x"]}')
    found, failed = panel.set_results("avmnist", 1)
    assert [one.seed for one in found] == [0]
    assert failed == ["x"]


def test_commands_run_side_by_side_and_failures_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = {
        "a": ["-c", "print('run 1 of 1'); print('epoch 1')"],
        "b": ["-c", "raise SystemExit(1)"],
    }
    logs = {name: tmp_path / f"{name}.txt" for name in commands}
    assert run_parallel(commands, logs, 2) == ["b"]
    shown = capfd.readouterr().err
    assert "a: run 1 of 1" in shown
    assert "epoch" not in shown
    assert logs["a"].read_text() == "run 1 of 1\nepoch 1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_commands_with_exit_code_3(
    number: signal.Signals, tmp_path: Path
) -> None:
    sleep = "import os, time; print('run', os.getpid(), flush=True); time.sleep(60)"
    script = f"""
from pathlib import Path
from benchmarks.accuracy.processes import run_parallel
from dimml.errors import DimmlError
commands = {{name: ["-c", {sleep!r}] for name in "ab"}}
try:
    run_parallel(commands, {{name: Path({str(tmp_path)!r}, name) for name in commands}}, 2)
except DimmlError as error:
    raise SystemExit(error.exit_code)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=SOURCE_ROOT)
    logs = [tmp_path / "a", tmp_path / "b"]
    deadline = time.monotonic() + 60
    while not all(log.exists() and log.read_text().endswith("\n") for log in logs):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(number)
    assert parent.wait(60) == 3
    for log in logs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text().split()[1]), 0)


def test_results_page_holds_the_tables_of_the_published_panel() -> None:
    page = panel.PAGE.read_text()
    assert page == panel.with_tables(page, json.loads((panel.RESULTS / "panel.json").read_text()))
    assert page.count("\n## ") > 2


def test_tables_replace_only_what_is_between_the_marks() -> None:
    page = f"before\n{panel.START}\nold\n{panel.END}\nafter\n"
    document = {
        "sets": {"some": figures_of(CLEAR)},
        "panel": panel_figures({"some": figures_of(CLEAR)}),
    }
    changed = panel.with_tables(page, document)
    assert changed.startswith(f"before\n{panel.START}\n\n## Means over 1 sets")
    assert changed.endswith(f"\n\n{panel.END}\nafter\n")
    assert "old" not in changed
    assert panel.with_tables(changed, document) == changed
