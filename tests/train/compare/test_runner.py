"""`dimml compare` on two text columns: resuming, discarding and rejecting."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from dimml.errors import InterruptedRunError, TrainingError, UsageError
from dimml.files import locked_folder
from tests.train.compare.things import HEADER, SPLITS, recipe_of, row
from train.compare.report import write_report
from train.compare.runner import ComparisonPlan, compare_runs, parse_runs
from train.compare.trial import TrialOutcome, TrialRunner
from train.methods.base import Trial


def result(folder: Path, name: str, seed: int = 0) -> Any:
    return json.loads((folder / "compare" / "results" / name / f"seed-{seed}.json").read_text())


class TestResuming:
    def test_finished_run_is_not_repeated(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TrialRunner, "run", lambda *_: pytest.fail("ran again"))
        plan = ComparisonPlan(("dimml", "ume"), (0,), 1)
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)

    def test_added_methods_and_seeds_are_run(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = _record(monkeypatch)
        plan = ComparisonPlan(("ume", "joint"), (0, 1), 1)
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)
        assert ran == [("joint", 0), ("ume", 1), ("joint", 1)]

    def test_stopped_comparison_keeps_finished_runs(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe, plan = (
            recipe_of(folder / "data.csv"),
            ComparisonPlan(("ume", "joint", "qmf"), (0,), 1),
        )
        ran = _record(monkeypatch, stop_at="qmf")
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(InterruptedRunError, match="2 of 3 runs finished; the same command"):
            compare_runs(recipe, plan, folder / "compare", overwrite=False)
        assert signal.getsignal(signal.SIGTERM) == before
        assert (folder / "compare" / "results" / "joint" / "seed-0.json").exists()
        ran.clear()
        _record(monkeypatch, ran=ran)
        compare_runs(recipe, plan, folder / "compare", overwrite=False)
        assert ran == [("qmf", 0)]

    def test_removed_result_is_measured_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = _record(monkeypatch)
        (folder / "compare" / "results" / "ume+fusion" / "seed-0.json").unlink()
        plan = ComparisonPlan(("dimml", "ume"), (0,), 1)
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)
        assert ran == [("ume", 0)]

    def test_diverged_run_does_not_stop_the_others(self, folder: Path) -> None:
        training = {"epochs": 1, "warm_up": 0, "batch_size": 16, "learning_rate": 1e30}
        recipe = recipe_of(folder / "data.csv", training=training)
        plan = ComparisonPlan(("dimml", "joint", "mla"), (0,), 1)
        failed = compare_runs(recipe, plan, folder / "hot", overwrite=False)
        assert [line.split(":")[0] for line in failed] == [f"{name}, seed 0" for name in plan.runs]
        assert all(
            "training diverged in epoch 1: the model's answers are not finite" in f for f in failed
        )

    def test_stopped_training_resumes_and_counts_its_time(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        training = {"epochs": 2, "warm_up": 0, "batch_size": 16}
        recipe = recipe_of(folder / "data.csv", training=training)
        plan, out = ComparisonPlan(("ume",), (0,), 1), folder / "stopped"

        def stop() -> None:
            with monkeypatch.context() as context:
                context.setattr("train.compare.trial.encode_test_split", _interrupt)
                with pytest.raises(InterruptedRunError, match="0 of 1 runs finished"):
                    compare_runs(recipe, plan, out, overwrite=False)

        stop()
        [checkpoint] = out.glob("work/*/last.ckpt")
        state = torch.load(checkpoint, weights_only=True)
        state["callbacks"]["History"]["seconds"] += 1000
        torch.save(state, checkpoint)
        compare_runs(recipe, plan, out, overwrite=False)
        found = out / "results" / "ume" / "seed-0.json"
        assert 1000 < json.loads(found.read_text())["seconds"] < 1100

        found.unlink()
        stop()
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        compare_runs(recipe, plan, out, overwrite=False)
        assert "is damaged; this training starts again" in capsys.readouterr().err
        assert found.exists()


class TestRefusals:
    def test_changed_sample_files_are_rejected(self, folder: Path, tmp_path: Path) -> None:
        for number in range(48):
            PIL.Image.new("L", (8, 8), 9 * (number // 4 % 2)).save(folder / f"{number}.png")
        lines = [
            f"{n},{SPLITS[n % 4]},{'ab'[n // 4 % 2]},{n}.png,{'ab'[n // 4 % 2]}" for n in range(48)
        ]
        (folder / "photos.csv").write_text("\n".join(["id,split,label,photo,note", *lines]))
        modalities = {"photo": {"kind": "image", "preprocessing": {"size": [8, 8]}}, "note": "text"}
        recipe = recipe_of(folder / "photos.csv", modalities=modalities)
        out = folder / "photos"
        compare_runs(recipe, ComparisonPlan(("ume",), (0,), 1), out, overwrite=False)
        PIL.Image.new("L", (8, 8), 200).save(folder / "3.png")
        with pytest.raises(UsageError, match=r"another comparison \(other samples"):
            compare_runs(recipe, ComparisonPlan(("ume",), (0, 1), 1), out, overwrite=False)
        assert (out / "results" / "ume" / "seed-0.json").exists()

    def test_too_small_validation_split_is_rejected(self, folder: Path) -> None:
        rows = [row(n) for n in range(160) if n % 4 != 2 or n < 8]
        (folder / "few.csv").write_text(HEADER + "".join(rows))
        with pytest.raises(UsageError, match=r"validation split of .* has 2 readable rows"):
            compare_runs(
                recipe_of(folder / "few.csv"),
                ComparisonPlan(("ume",), (0,), 1),
                folder / "few",
                False,
            )

    @pytest.mark.parametrize("content", ["{", "[]", None])
    def test_results_without_settings_are_rejected(self, folder: Path, content: str | None) -> None:
        path = folder / "compare" / "settings.json"
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(UsageError, match="results of another comparison"):
            compare_runs(
                recipe_of(folder / "data.csv"),
                ComparisonPlan(("ume",), (0,), 1),
                folder / "compare",
                False,
            )

    def test_invalid_data_discards_no_results(self, folder: Path) -> None:
        write_report(folder / "compare")
        (folder / "bad.csv").write_text(HEADER + "".join(row(n) for n in range(160) if n % 4 != 3))
        plan = ComparisonPlan(("ume",), (0,), 1)
        with pytest.raises(UsageError, match="test split"):
            compare_runs(recipe_of(folder / "bad.csv"), plan, folder / "compare", overwrite=True)
        assert (folder / "compare" / "results" / "ume" / "seed-0.json").exists()
        assert (folder / "compare" / "report.md").exists()

    def test_results_of_another_recipe_or_data_are_rejected(self, folder: Path) -> None:
        plan, data = ComparisonPlan(("ume",), (0,), 1), folder / "data.csv"
        with pytest.raises(UsageError, match=r"other recipe, see its settings\.json"):
            compare_runs(recipe_of(data, feature_dim=4), plan, folder / "compare", overwrite=False)
        data.write_text(HEADER + "".join(map(row, range(156))))
        with pytest.raises(UsageError, match="other data"):
            compare_runs(recipe_of(data), plan, folder / "compare", overwrite=False)
        assert (folder / "compare" / "results" / "ume" / "seed-0.json").exists()

    def test_overwrite_discards_results_of_another_comparison(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = _record(monkeypatch)
        write_report(folder / "compare")
        recipe = recipe_of(folder / "data.csv", feature_dim=4)
        compare_runs(recipe, ComparisonPlan(("ume",), (0,), 1), folder / "compare", overwrite=True)
        assert ran == [("ume", 0)]
        assert not (folder / "compare" / "results" / "dimml").exists()
        assert not (folder / "compare" / "report.md").exists()

    def test_folder_without_later_training_settings_is_accepted(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TrialRunner, "run", lambda *_: pytest.fail("ran again"))
        stored = json.loads((folder / "compare" / "settings.json").read_text())
        later = {"devices", "precision", "logger", "class_weights", "patience", "optimizer"}
        assert not later & stored["recipe"]["training"].keys()
        plan = ComparisonPlan(("ume",), (0,), 1)
        recipe = recipe_of(
            folder / "data.csv",
            training={"epochs": 1, "warm_up": 0, "batch_size": 16, "devices": 2, "logger": "none"},
        )
        compare_runs(recipe, plan, folder / "compare", overwrite=False)

    def test_results_with_other_class_weights_are_not_mixed(self, folder: Path) -> None:
        training = {"epochs": 1, "warm_up": 0, "batch_size": 16, "class_weights": "balanced"}
        recipe = recipe_of(folder / "data.csv", training=training)
        with pytest.raises(UsageError, match="another comparison"):
            compare_runs(
                recipe, ComparisonPlan(("ume",), (0,), 1), folder / "compare", overwrite=False
            )

    def test_results_with_another_optimizer_are_not_mixed(self, folder: Path) -> None:
        training = {"epochs": 1, "warm_up": 0, "batch_size": 16, "optimizer": "sgd"}
        recipe = recipe_of(folder / "data.csv", training=training)
        plan = ComparisonPlan(("ume",), (0,), 1)
        with pytest.raises(UsageError, match="another comparison"):
            compare_runs(recipe, plan, folder / "compare", overwrite=False)

    def test_second_process_is_rejected(self, folder: Path) -> None:
        plan = ComparisonPlan(("ume",), (0,), 1)
        lock = locked_folder(folder / "compare", "comparing in", "another")
        with lock, pytest.raises(UsageError, match="another process"):
            compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)

    def test_unknown_method_names_are_rejected(self) -> None:
        assert parse_runs("ume, dimml-no-duc,ume") == ("ume", "dimml-no-duc")
        assert parse_runs("")[0] == "dimml"
        with pytest.raises(UsageError, match="no method magic; there are: dimml, joint"):
            parse_runs("ume,magic")

    def test_too_many_trials_are_rejected(self, folder: Path) -> None:
        recipe = recipe_of(folder / "data.csv")
        with pytest.raises(UsageError, match="every method has 3 settings to try"):
            compare_runs(
                recipe, ComparisonPlan(("ume",), (0,), 4), folder / "compare", overwrite=False
            )


def test_first_seed_chooses_the_trial_on_validation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[float, int]] = []

    def run(
        self: Any, name: str, method: str, options: Any, trial: Trial, seed: int
    ) -> TrialOutcome:
        ran.append((trial.learning_rate, seed))
        if trial.learning_rate == 2.0:
            raise TrainingError("training diverged")
        score = 0.9 if trial.learning_rate == 0.5 else 0.1
        return TrialOutcome(score, {name: _document(name, seed, trial)})

    monkeypatch.setattr(TrialRunner, "run", run)
    plan = ComparisonPlan(("ume",), (0, 1), 3)
    compare_runs(recipe_of(folder / "data.csv"), plan, folder / "new", overwrite=False)
    assert ran == [(1.0, 0), (0.5, 0), (2.0, 0), (0.5, 1)]
    chosen = json.loads((folder / "new" / "results" / "ume" / "seed-0.json").read_text())
    assert chosen["rate"] == 0.5

    path = folder / "new" / "trials" / "ume" / "1.json"
    path.write_text("{")
    (folder / "new" / "results" / "ume" / "seed-1.json").unlink()
    with pytest.raises(UsageError, match=re.escape(f"{path}: ") + ".*remove it and run"):
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "new", overwrite=False)


def _document(name: str, seed: int, trial: Trial) -> dict[str, Any]:
    subsets = {"note": {"accuracy": 0.5}}
    return {"method": name, "seed": seed, "rate": trial.learning_rate, "subsets": subsets}


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _record(
    monkeypatch: pytest.MonkeyPatch,
    stop_at: str | None = None,
    ran: list[tuple[str, int]] | None = None,
) -> list[tuple[str, int]]:
    """Replace training by a function that records the runs."""
    noted = [] if ran is None else ran

    def run(
        self: Any, name: str, method: str, options: Any, trial: Trial, seed: int
    ) -> TrialOutcome:
        if name == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        noted.append((name, seed))
        return TrialOutcome(0.5, {name: _document(name, seed, trial)})

    monkeypatch.setattr(TrialRunner, "run", run)
    return noted
