"""The first sentences of a comparison's report, and its section on the errors of `dimml`."""

from __future__ import annotations

from pathlib import Path

from tests.train.compare.stored import ODD, compared, markdown, result, write
from tests.train.report.pages import Loads, page_text
from train.compare.report import write_report


class TestOpening:
    def test_report_opens_with_three_plain_sentences(self, tmp_path: Path) -> None:
        full, missing, confidence = markdown(tmp_path, *compared()).split("\n- ")[1:4]
        assert full == (
            "With every input, dimml labels 90 of 100 test samples correctly; the best other "
            "method, joint, 92 (more than chance)."
        )
        assert missing == (
            "Averaged over all choices of inputs, dimml is right for 80 of 100, and with the worst "
            "choice (audio alone) for 70; on average, the best other method, joint, is right for "
            "78 (more than chance)."
        )
        assert confidence.startswith(
            "What dimml claims about its certainty and how often it is right differ by 1.0 points "
            "of 100 on average; a perfectly honest classifier would show 2.6 here by chance."
        )

    def test_opening_says_what_was_not_measured(self, tmp_path: Path) -> None:
        first = markdown(tmp_path, {"method": "ume", "seed": 0, "subsets": {"a": {}}})
        assert "No method was measured on samples with every input." in first
        assert "What missing inputs cost was not measured." in first
        assert "Whether its confidence can be trusted was not measured." in first

    def test_opening_says_that_chance_may_explain_a_difference(self, tmp_path: Path) -> None:
        results = [result("dimml", 0, 0.9, 0.7), result("joint", 0, 0.8, 0.6)]
        first = markdown(tmp_path, *results).split("\n## ")[0]
        assert "joint, 80 (a difference that chance may explain)" in first


MODEL = {
    "confusion": {
        "classes": 2,
        "labels": ["no", ODD],
        "counts": [[40, 3], [0, 57]],
        "errors": 3,
        "pairs": [{"label": "no", "predicted": ODD, "count": 3}],
    },
    "examples": [
        {
            "id": "<7>",
            "label": "no",
            "predicted": ODD,
            "confidence": 0.97,
            "inputs": {
                "audio": {"note": "absent"},
                "image": {
                    "images": ["data:image/png;base64,AAAA"],
                    "note": "",
                    "label": ODD,
                    "confidence": 0.9,
                    "weight": None,
                },
            },
        }
    ],
}


class TestErrorsOfDimml:
    def test_stored_errors_are_shown_with_their_inputs(self, tmp_path: Path) -> None:
        changes = ({"confusion": MODEL["confusion"]}, MODEL)
        results = [result("dimml", s, 0.9, 0.7, model=m) for s, m in enumerate(changes)]
        write_report(write(tmp_path, *results))
        page = (tmp_path / "report.html").read_text()
        assert "The errors are those of dimml with seed 1." in page_text(page)
        assert f"True label no ; the answer is {ODD} , 97 % sure" in page_text(page)
        assert 'aria-label="confusion"' in page
        assert Loads(page).loads == []
        assert "script" not in Loads(page).tags
        assert "## The most confident errors" in (tmp_path / "report.md").read_text()
        assert "base64" not in (tmp_path / "report.md").read_text()

    def test_results_without_stored_errors_have_no_such_section(self, tmp_path: Path) -> None:
        text = markdown(tmp_path, *compared())
        assert "Labels that are confused" not in text
        assert "The most confident errors" not in text
