import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dimml.errors import UsageError
from tests.train.compare.stored import ODD, compared, markdown, result, write
from tests.train.report.pages import Loads
from train.compare.report import main, read_document, write_report


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tmp_path_factory.mktemp("compared"), *compared())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def text(out: Path) -> str:
    return (out / "report.md").read_text()


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return (out / "report.html").read_text()


class TestWriteReport:
    def test_write_report_returns_and_writes_the_document(self, out: Path) -> None:
        before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
        document = write_report(out)
        assert json.loads((out / "compare.json").read_text()) == document
        assert sorted(p.name for p in before) == ["compare.json", "report.html", "report.md"]
        assert {path: path.read_bytes() for path in before} == before

    def test_write_report_without_results_writes_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="dimml compare"):
            write_report(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_report_is_written_again_from_compare_json_alone(
        self, out: Path, tmp_path: Path
    ) -> None:
        shutil.copy(out / "compare.json", tmp_path)
        main(tmp_path / "compare.json")
        for name in ("report.md", "report.html"):
            assert (tmp_path / name).read_bytes() == (out / name).read_bytes()

    def test_report_is_written_again_from_a_folder_of_results(
        self, out: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(out / "results", tmp_path / "results")
        main(tmp_path)
        assert (tmp_path / "report.html").read_bytes() == (out / "report.html").read_bytes()

    @pytest.mark.parametrize(
        ("content", "message"),
        [("{", "`dimml compare` writes this file"), ("{}", "is not the document of a comparison")],
    )
    def test_other_json_is_rejected(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "compare.json").write_text(content)
        with pytest.raises(UsageError, match=message):
            read_document(tmp_path / "compare.json")


class TestAnswers:
    def test_headline_says_who_is_ahead_by_how_much(self, text: str) -> None:
        first = text.split("\n## ")[0]
        assert "Accuracy, mean over subsets: **highest mean: dimml, 80.17 %**" in first
        # Means 0.7, 0.8, 0.9 against 0.66, 0.76, 0.92; per seed (6 - 2 + 0.1 s) / 3 points.
        assert "+2.03 points (+1.95 to +2.12); the interval of 3 seeds does not hold 0" in first
        assert "Accuracy on the worst subset: **highest mean: dimml, 70.20 %**" in first
        assert "Accuracy on full input: **highest mean: joint, 92.20 %**" in first
        assert "dimml less joint, the best other: −2.10 points (−2.35 to −1.85)" in first
        assert "dimml is ahead of 1 and behind 0 of 1 other rows" in first

    def test_tie_names_both_methods_and_zero_has_no_sign(self, tmp_path: Path) -> None:
        equal = [result(name, 0, 0.9, 0.7) for name in ("dimml", "joint")]
        text = markdown(tmp_path, *equal)
        assert "highest mean: dimml and joint, " in text
        assert "dimml less joint, the best other: 0.00 points" in text
        assert "-0.00" not in text
        assert "−0.00" not in text

    def test_full_input_without_rows_is_not_measured(self, tmp_path: Path) -> None:
        changes = {"modalities": ["audio", "image", "text"]}
        text = markdown(tmp_path, result("dimml", 0, 0.9, 0.7, **changes))
        assert "no test samples on full input (audio+image+text)" in text
        assert text.count("no row of the test split has every modality") == 1
        assert "Accuracy on full input: **not measured**" in text

    def test_report_of_a_variant_alone_is_written(self, tmp_path: Path) -> None:
        write_report(write(tmp_path, result("dimml-no-duc", 0, 0.9, 0.7)))
        assert "highest mean: dimml-no-duc" in (tmp_path / "report.md").read_text()

    def test_one_seed_gives_no_interval(self, tmp_path: Path) -> None:
        results = [result("dimml", 0, 0.9, 0.7), result("joint", 0, 0.8, 0.6)]
        text = markdown(tmp_path, *results)
        assert "+10.00 points; one seed settles nothing" in text
        assert "deviation" in text
        assert "±" not in text.split("## Accuracy")[1].split("| dimml |")[1].split("\n")[0]

    @pytest.mark.parametrize(
        ("results", "said"),
        [
            ([result("dimml", 0, 0.9, 0.7)], "there is no other method"),
            ([result("joint", 0, 0.9, 0.7)], "dimml was not measured"),
            (
                [result("dimml", 0, 0.9, 0.7), result("joint", 1, 0.8, 0.6)],
                "dimml and joint share no seed",
            ),
            ([{"method": "dimml", "seed": 0, "subsets": {"a": {}}}], "not measured"),
        ],
    )
    def test_headline_names_what_is_missing(
        self, tmp_path: Path, results: list[dict[str, Any]], said: str
    ) -> None:
        write_report(write(tmp_path, *results))
        assert said in (tmp_path / "report.md").read_text().split("\n## ")[0]


class TestLosses:
    def test_losses_are_listed_with_intervals(self, text: str) -> None:
        section = text.split("## Where dimml loses")[1].split("\n## ")[0]
        clear, unsettled = section.split("not settled")[0], section.split("not settled")[1:]
        assert "- accuracy on full input: joint −2.10 points (−2.35 to −1.85)" in clear
        assert "- area under the missing-rate curve: joint −2.10 points" in clear
        assert "subsets" not in clear
        assert not unsettled

    def test_positive_difference_in_nll_is_a_loss(self, tmp_path: Path) -> None:
        results = compared()
        for number, one in enumerate(results[:3]):
            one["subsets"]["audio+image"]["nll"] = 0.6 + 0.01 * number
        results[3]["subsets"]["audio+image"]["ece"] = 0.001
        section = markdown(tmp_path, *results).split("## Where dimml loses")[1]
        clear, unsettled = section.split("\n## ")[0].split("not settled")
        assert "- NLL on full input: joint +0.1100 (+0.0852 to +0.1348)" in clear
        assert "- ECE on full input: joint +0.0030 (−0.0099 to +0.0159)" in unsettled

    def test_report_says_that_there_are_no_losses(self, tmp_path: Path) -> None:
        results = [
            result(n, s, f, f - 0.2) for s in (0, 1) for n, f in (("dimml", 0.9), ("b", 0.8))
        ]
        assert "Nowhere: on no measure here" in markdown(tmp_path, *results)


def test_best_figure_of_a_column_is_bold(text: str) -> None:
    section = text.split("## Accuracy, %")[1].split("\n## ")[0]
    assert (
        "| dimml | 90.10 ± 0.10 | **80.17 ± 0.17** | **70.20 ± 0.20** | 90.10 ± 0.10 |" in section
    )
    assert "| joint | **92.20 ± 0.20** |" in section
    assert "| dimml | **70.20 ± 0.20** | **80.20 ± 0.20** | 90.10 ± 0.10 |" in section


def test_report_describes_settings_and_machine(text: str) -> None:
    assert text.startswith("<!-- Generated by `dimml compare`; do not edit. -->\n")
    assert "Machine: processor A Processor, cores 2." in text
    assert "| joint | 0 to 2 | 61.2 | 12 | learning_rate 0.001 |" in text
    assert "audio->image 3" in text


class TestPage:
    def test_page_is_well_formed_xml(self, page: str) -> None:
        root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
        assert root.tag == "html"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}svg"))) == 4

    def test_page_loads_nothing(self, page: str) -> None:
        found = Loads(page)
        assert found.loads == []
        assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
        assert "@import" not in page
        assert not re.search(r"url\((?!#)", page)

    def test_page_has_the_text_of_the_markdown(self, page: str) -> None:
        for said in (
            "highest mean: dimml, 80.17 %",
            "Where dimml loses",
            "−2.10 points (−2.35 to −1.85)",
        ):
            assert said in page
        assert "prefers-color-scheme: dark" in page
        assert "@media print" in page

    def test_odd_names_appear_as_text(self, tmp_path: Path) -> None:
        odd = result("dimml", 0, 0.9, 0.7)
        odd["subsets"] = {ODD: odd["subsets"]["audio"]}
        odd["corruption"] = {ODD: {"<i>": odd["corruption"]["audio"]["noise"]}}
        odd["reliability"] = {ODD: odd["reliability"]["audio"]}
        odd["machine"] = {"</style>": "\x00\x1b"}
        write_report(write(tmp_path, odd))
        page = (tmp_path / "report.html").read_text()
        root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
        assert ODD in [cell.text for cell in root.iter("th")]
        assert Loads(page).loads == []
        assert "script" not in Loads(page).tags
        header = [
            line for line in (tmp_path / "report.md").read_text().splitlines() if "a\\|b" in line
        ]
        assert any(re.fullmatch(r"\| method \| a\\\|b.*d\\` \|", line) for line in header)
