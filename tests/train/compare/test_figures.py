import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from train.compare.summary import Summary, summarise
from train.report.figures import corruption_curves
from train.report.figures import draw_figures as figures

METHODS = ("dimml", "joint", "_odd $x$ <b>&")
SUBSETS = ("audio", "image", "audio+image")


def result(method: str, seed: int, **changes: Any) -> dict[str, Any]:
    weight = 0.4 if method == "dimml" else None
    figure = {"accuracy": 0.8 + 0.01 * seed, "nll": 0.5, "ece": 0.02}
    bins = {"confidence": [0.3, None, 0.9], "accuracy": [0.2, None, 0.95], "count": [20, 0, 80]}
    levels = {level: {**figure, "weight": weight} for level in ("1", "2", "3")}
    return {
        "method": method,
        "seed": seed,
        "subsets": {name: {"samples": 100, **figure} for name in SUBSETS},
        "missing": {rate: figure for rate in ("0.0", "0.3", "0.7")},
        "corruption": {"audio": {"noise": levels}, "image": {"blur": levels, "fog": levels}},
        "reliability": dict.fromkeys(SUBSETS, bins),
        **changes,
    }


def summary(out: Path, *results: dict[str, Any]) -> Summary:
    for number, one in enumerate(results):
        path = out / "results" / str(number) / f"seed-{one['seed']}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))
    return summarise(out)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    results = [result(name, seed) for name in METHODS for seed in range(2)]
    return summary(tmp_path_factory.mktemp("plotted"), *results)


@pytest.fixture(scope="module")
def drawn(document: Summary) -> dict[str, str]:
    return figures(document)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.text]


def test_every_figure_is_valid_xml(drawn: dict[str, str]) -> None:
    assert list(drawn) == ["missing", "subsets", "reliability", "weights"]
    for svg in drawn.values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("missing", {"modalities missing at random (%)", "test accuracy (%)", "dimml", "joint"}),
        ("subsets", {"audio", "image", "audio+image", "test accuracy (%)", "80.5"}),
        ("reliability", {"confidence (%)", "accuracy (%)"}),
        ("weights", {"corruption level", "its weight (%)", "dimml: image corrupted", "fog"}),
    ],
)
def test_axes_have_labels_with_units(drawn: dict[str, str], name: str, labels: set[str]) -> None:
    assert labels <= set(texts(drawn[name]))


def test_odd_method_name_is_shown_as_written(drawn: dict[str, str]) -> None:
    """Neither left out of the legend for its underscore, nor read as a formula or as markup."""
    shown = [text.lstrip("\u200b") for text in texts(drawn["missing"])]
    assert METHODS[2] in shown


def test_only_weighting_methods_have_weight_panels(drawn: dict[str, str]) -> None:
    titles = [text for text in texts(drawn["weights"]) if text.endswith("corrupted")]
    assert titles == ["dimml: audio corrupted", "dimml: image corrupted"]


def test_reliability_shows_dimml_and_the_best_other_method(document: Summary) -> None:
    weaker = {name: document["methods"][name] for name in ("dimml", METHODS[2], "joint")}
    drawn = figures({**document, "methods": weaker})
    assert "joint" not in texts(drawn["reliability"])
    assert "dimml" in texts(drawn["reliability"])


def test_equal_documents_give_equal_figures(document: Summary, drawn: dict[str, str]) -> None:
    assert figures(document) == drawn
    assert not any("<dc:date>" in svg or "<metadata" in svg for svg in drawn.values())


def test_ids_are_unique_across_figures(drawn: dict[str, str]) -> None:
    ids = [found for svg in drawn.values() for found in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    used = {u for svg in drawn.values() for u in re.findall(r'(?:href="#|url\(#)([^")]+)', svg)}
    assert used
    assert used <= set(ids)


def test_figures_take_the_colour_of_the_page(drawn: dict[str, str]) -> None:
    for svg in drawn.values():
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert "#000000" not in svg


def test_unmeasured_figures_are_left_out(tmp_path: Path) -> None:
    bare = {"missing": {}, "corruption": {}, "reliability": {}}
    assert list(figures(summary(tmp_path, result("joint", 0, **bare)))) == ["subsets"]


def test_curve_leaves_out_missing_points(tmp_path: Path) -> None:
    holes = result("joint", 0)
    holes["missing"]["0.3"] = {"accuracy": None}
    holes["subsets"]["audio"] = {"samples": 0, "accuracy": None}
    holes["corruption"] = {"audio": {"noise": {"1": {"weight": 0.3}, "2": {"weight": None}}}}
    drawn = figures(summary(tmp_path, result("dimml", 0), holes))
    assert list(drawn) == ["missing", "subsets", "reliability", "weights"]
    assert "nan" not in "".join(drawn.values()).lower()


def test_figures_are_drawn_for_one_modality(tmp_path: Path) -> None:
    only = result("dimml", 0)
    for name in ("subsets", "reliability", "corruption"):
        only[name] = {"audio": only[name]["audio"]}
    assert list(figures(summary(tmp_path, only))) == [
        "missing",
        "subsets",
        "reliability",
        "weights",
    ]


def test_corruption_of_eight_modalities_is_four_panels_wide(tmp_path: Path) -> None:
    only = result("dimml", 0)
    corruption = only["corruption"]["audio"]
    widths = []
    for modalities in (4, 7, 8):
        only["corruption"] = {f"m{number}": corruption for number in range(modalities)}
        figure = corruption_curves(summary(tmp_path / str(modalities), only))
        assert figure is not None
        shown = [axis.get_title() for axis in figure.axes if axis.get_visible()]
        assert set(shown) == {f"m{number} corrupted" for number in range(modalities)}
        widths.append(figure.get_figwidth())
    assert widths[0] == widths[1] == widths[2]
