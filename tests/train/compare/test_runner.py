"""`dimml compare` on two text columns: what it writes, refuses and goes on with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from dimml.errors import InterruptedRunError, TrainingError, UsageError
from dimml.files import locked_folder
from train.compare.report import write_report
from train.compare.runner import ComparisonPlan, compare_runs, parse_runs
from train.compare.trial import TrialOutcome, TrialRunner
from train.methods.base import Trial
from train.recipe import Recipe

HEADER = "id,split,label,title,note\n"
SPLITS = ("train", "train", "validation", "test")


def row(number: int) -> str:
    label = ("red", "blue")[number // 4 % 2]
    title = "" if number % 7 == 0 else f"{label} thing"
    return f"{number},{SPLITS[number % 4]},{label},{title},it is {label}\n"


def recipe_of(data: Path, **changes: Any) -> Recipe:
    document = {
        "name": "things",
        "data": data,
        "feature_dim": 8,
        "modalities": {"title": "text", "note": "text"},
        "training": {"epochs": 1, "warm_up": 0, "batch_size": 16},
    }
    return Recipe.model_validate({**document, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the comparison of two methods by one seed."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "data.csv").write_text(HEADER + "".join(map(row, range(160))))
    plan = ComparisonPlan(("dimml", "ume"), (0,), 1)
    compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "things")
    return tmp_path / "things"


def result(folder: Path, name: str, seed: int = 0) -> Any:
    return json.loads((folder / "compare" / "results" / name / f"seed-{seed}.json").read_text())


class TestResults:
    def test_each_row_has_a_file(self, finished: Path) -> None:
        places = {path.parent.name for path in finished.rglob("seed-0.json")}
        fusions = ("paper", "certainty", "pooled", "both-heads", "stage2", "stage2-dropout")
        assert places == {
            *("dimml", "best-unimodal", "logit-average", "ume", "ume+fusion"),
            *(f"dimml+{name}" for name in fusions),
        }
        assert not (finished / "compare" / "work").exists()
        assert set(write_report(finished / "compare")["methods"]) == places

    def test_hold_every_measurement(self, finished: Path) -> None:
        found = result(finished, "dimml")
        assert (found["method"], found["seed"], found["epochs"]) == ("dimml", 0, 1)
        assert list(found["subsets"]) == ["title", "note", "title+note"]
        assert set(found["subsets"]["note"]) == {
            *("samples", "accuracy", "nll", "ece"),
            *("risk_coverage_area", "set_coverage", "set_size", "set_nominal", "set_rows"),
            *("high_set_coverage", "high_set_size", "high_set_nominal"),
        }
        assert set(found["validation"]) == {"accuracy", "nll"}
        assert list(found["missing"]) == ["0.0", "0.1", "0.3", "0.5", "0.7"]
        assert set(found["corruption"]["title"]) == {"characters", "words"}
        noisy = found["corruption"]["title"]["words"]["3"]
        assert set(noisy) == {"accuracy", "nll", "ece", "weight", "confidence"}
        assert 0 < noisy["weight"] < 1
        assert set(found["reliability"]) == set(found["subsets"])
        assert set(found["duc"]["selected"]) == {"title->note", "note->title"}
        assert result(finished, "ume")["duc"] is None

    def test_count_the_rows_that_have_the_subset(self, finished: Path) -> None:
        samples = {n: s["samples"] for n, s in result(finished, "ume")["subsets"].items()}
        titled = sum(number % 7 != 0 for number in range(3, 160, 4))
        assert samples == {"title": titled, "note": 40, "title+note": titled}

    def test_of_the_row_beside_it_come_from_the_same_training(self, finished: Path) -> None:
        one, two = (result(finished, name) for name in ("ume", "ume+fusion"))
        assert one["hyperparameters"] == two["hyperparameters"]
        assert one["subsets"]["note"] == two["subsets"]["note"]
        assert one["missing"].keys() == two["missing"].keys()


class TestResuming:
    def test_runs_nothing_twice(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TrialRunner, "run", lambda *_: pytest.fail("ran again"))
        plan = ComparisonPlan(("dimml", "ume"), (0,), 1)
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)

    def test_runs_what_was_added(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran = _record(monkeypatch)
        plan = ComparisonPlan(("ume", "joint"), (0, 1), 1)
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)
        assert ran == [("joint", 0), ("ume", 1), ("joint", 1)]

    def test_a_stop_says_how_to_go_on_and_keeps_what_is_finished(
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

    def test_a_row_that_was_removed_comes_back_with_its_training(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = _record(monkeypatch)
        (folder / "compare" / "results" / "ume+fusion" / "seed-0.json").unlink()
        plan = ComparisonPlan(("dimml", "ume"), (0,), 1)
        compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)
        assert ran == [("ume", 0)]

    def test_one_that_diverges_is_said_and_the_others_go_on(self, folder: Path) -> None:
        training = {"epochs": 1, "warm_up": 0, "batch_size": 16, "learning_rate": 1e30}
        recipe = recipe_of(folder / "data.csv", training=training)
        plan = ComparisonPlan(("dimml", "joint", "mla"), (0,), 1)
        failed = compare_runs(recipe, plan, folder / "hot", overwrite=False)
        assert [line.split(":")[0] for line in failed] == [f"{name}, seed 0" for name in plan.runs]
        assert all("training diverged in epoch 1: its answers are not finite" in f for f in failed)

    def test_a_stopped_training_goes_on_or_starts_again_and_counts_its_time(
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
    def test_files_that_changed_under_the_same_table(self, folder: Path, tmp_path: Path) -> None:
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

    def test_a_validation_split_that_nothing_can_be_measured_on(self, folder: Path) -> None:
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
    def test_results_of_unknown_settings(self, folder: Path, content: str | None) -> None:
        path = folder / "compare" / "settings.json"
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(UsageError, match="results of another comparison"):
            compare_runs(
                recipe_of(folder / "data.csv"),
                ComparisonPlan(("ume",), (0,), 1),
                folder / "compare",
                False,
            )

    def test_nothing_is_discarded_for_data_that_do_not_do(self, folder: Path) -> None:
        write_report(folder / "compare")
        (folder / "bad.csv").write_text(HEADER + "".join(row(n) for n in range(160) if n % 4 != 3))
        plan = ComparisonPlan(("ume",), (0,), 1)
        with pytest.raises(UsageError, match="test split"):
            compare_runs(recipe_of(folder / "bad.csv"), plan, folder / "compare", overwrite=True)
        assert (folder / "compare" / "results" / "ume" / "seed-0.json").exists()
        assert (folder / "compare" / "report.md").exists()

    def test_another_recipe_or_other_data(self, folder: Path) -> None:
        plan, data = ComparisonPlan(("ume",), (0,), 1), folder / "data.csv"
        with pytest.raises(UsageError, match=r"other recipe, see its settings\.json"):
            compare_runs(recipe_of(data, feature_dim=4), plan, folder / "compare", overwrite=False)
        data.write_text(HEADER + "".join(map(row, range(156))))
        with pytest.raises(UsageError, match="other data"):
            compare_runs(recipe_of(data), plan, folder / "compare", overwrite=False)
        assert (folder / "compare" / "results" / "ume" / "seed-0.json").exists()

    def test_unless_it_is_to_be_overwritten(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = _record(monkeypatch)
        write_report(folder / "compare")
        recipe = recipe_of(folder / "data.csv", feature_dim=4)
        compare_runs(recipe, ComparisonPlan(("ume",), (0,), 1), folder / "compare", overwrite=True)
        assert ran == [("ume", 0)]
        assert not (folder / "compare" / "results" / "dimml").exists()
        assert not (folder / "compare" / "report.md").exists()

    def test_a_second_process(self, folder: Path) -> None:
        plan = ComparisonPlan(("ume",), (0,), 1)
        lock = locked_folder(folder / "compare", "comparing in", "another")
        with lock, pytest.raises(UsageError, match="another process"):
            compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)

    def test_names_that_are_no_methods(self) -> None:
        assert parse_runs("ume, dimml-no-duc,ume") == ("ume", "dimml-no-duc")
        assert parse_runs("")[0] == "dimml"
        with pytest.raises(UsageError, match="no method magic; there are: dimml, joint"):
            parse_runs("ume,magic")

    def test_more_trials_than_there_are(self, folder: Path) -> None:
        recipe = recipe_of(folder / "data.csv")
        with pytest.raises(UsageError, match="every method has 3 settings to try"):
            compare_runs(
                recipe, ComparisonPlan(("ume",), (0,), 4), folder / "compare", overwrite=False
            )


def test_trials_are_chosen_on_validation_by_the_first_seed_alone(
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
    """Puts a stand-in in the place of training, which notes what it was asked for."""
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
