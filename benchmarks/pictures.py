"""Draw the pictures of the README from committed results.

Run `python -m benchmarks.pictures`; writes `docs/images/missing.svg`, accuracy against the share of
missing modalities, means over the sets of `benchmarks/results/panel.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.options import benchmark_parser
from benchmarks.results import RESULTS
from dimml.files import write_atomic
from dimml.machine import SOURCE_ROOT
from train.compare.statistics import mean

PICTURE = SOURCE_ROOT / "docs" / "images" / "missing.svg"
METHODS = {
    "dimml": "dimml",
    "mla": "MLA, the best other method",
    "joint_dropout": "joint training with modality dropout",
    "joint": "joint training",
}
"""The lines, by their name in the results, with their labels."""
INK = "#8a8a8a"
"""Text in this grey can be read on white and on black."""
COLOURS = ("#D55E00", "#0072B2", "#56B4E9", "#8a8a8a")
MARKERS = ("o", "s", "^", "v")


def main() -> None:
    """Draw the picture."""
    benchmark_parser(__doc__).parse_args()
    PICTURE.parent.mkdir(exist_ok=True)
    document = json.loads((RESULTS / "panel.json").read_text())
    write_atomic(PICTURE, draw(missing_curves(document["sets"]), len(document["sets"])))
    sys.stdout.write(f"{PICTURE}\n")


def missing_curves(sets: Mapping[str, Any]) -> dict[str, dict[float, float]]:
    """Return for each method the accuracy by rate of missing modalities, means over the sets.

    A method or a rate that one of the sets lacks is left out.
    """
    curves: dict[str, dict[float, float]] = {}
    for method in METHODS:
        tables = [one["methods"].get(method, {}).get("missing", {}) for one in sets.values()]
        rates = sorted({rate for table in tables for rate in table}, key=float)
        for rate in rates:
            value = mean(table.get(rate, {}).get("mean") for table in tables)
            if value is not None:
                curves.setdefault(method, {})[float(rate)] = value
    return curves


def draw(curves: Mapping[str, Mapping[float, float]], sets: int) -> str:
    """Return the picture as SVG, whose bytes depend on the figures alone."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {
        "svg.hashsalt": "dimml",
        # A page may lack the font, so letters are drawn.
        "svg.fonttype": "path",
        **dict.fromkeys(names, INK),
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axis = figure.subplots()
        for number, (method, points) in reversed(list(enumerate(curves.items()))):
            x, y = percent(list(points)), percent(list(points.values()))
            width = 2.5 if method == "dimml" else 1.5
            line = {"color": COLOURS[number], "marker": MARKERS[number], "linewidth": width}
            axis.plot(x, y, label=METHODS[method], **line)
        axis.grid(alpha=0.3, color=INK)
        axis.set_xlabel("modalities missing at random (%)")
        axis.set_ylabel(f"accuracy (%), mean over {sets} data sets")
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(handles[::-1], labels[::-1], frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def percent(shares: Sequence[float]) -> list[float]:
    """Return shares of 0..1 in per cent."""
    return [100 * share for share in shares]


if __name__ == "__main__":
    main()
