"""Draw the pictures of the README from committed results.

Run `python -m benchmarks.pictures`; writes `docs/images/missing.svg`, accuracy against the share of
missing modalities, means over the sets of `benchmarks/results/panel.json`: those in which one
modality can tell the label, and those in which only their combination does.
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
    "mla": "MLA, on average the best other method",
    "mlp_dropout": "joint training, modality dropout, a hidden layer",
    "joint_dropout": "joint training, modality dropout",
    "joint": "joint training",
}
"""The lines, by their name in the results, with their labels."""
COMBINED = ("pairs", "pairs_frozen")
"""The sets in which only the combination of the modalities tells the label."""
INK = "#8a8a8a"
"""Text in this grey can be read on white and on black."""
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#56B4E9", "#8a8a8a")
MARKERS = ("o", "s", "D", "^", "v")


def main() -> None:
    """Draw the picture."""
    benchmark_parser(__doc__).parse_args()
    PICTURE.parent.mkdir(exist_ok=True)
    document = json.loads((RESULTS / "panel.json").read_text())
    write_atomic(PICTURE, draw(document["sets"]))
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


def draw(sets: Mapping[str, Any]) -> str:
    """Return the picture of the sets of the panel as SVG."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {
        "svg.hashsalt": "dimml",
        # A page may lack the font, so letters are drawn.
        "svg.fonttype": "path",
        **dict.fromkeys(names, INK),
        "axes.titlecolor": INK,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    single = {name: one for name, one in sets.items() if name not in COMBINED}
    combined = {name: one for name, one in sets.items() if name in COMBINED}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        draw_curves(axes[0], missing_curves(single))
        draw_curves(axes[1], missing_curves(combined))
        axes[0].set(title=f"one modality can tell the label ({len(single)} data sets)")
        axes[0].set(ylabel="accuracy (%)", ylim=(40, 101))
        axes[1].set(title=f"only the combination tells ({len(combined)} data sets)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def draw_curves(axis: Any, curves: Mapping[str, Mapping[float, float]]) -> None:
    """Draw the curves of `missing_curves` into one panel, `dimml` on top."""
    for number, (method, points) in reversed(list(enumerate(curves.items()))):
        x, y = percent(list(points)), percent(list(points.values()))
        width = 2.5 if method == "dimml" else 1.5
        line = {"color": COLOURS[number], "marker": MARKERS[number], "linewidth": width}
        axis.plot(x, y, label=METHODS[method], **line)
    axis.grid(alpha=0.3, color=INK)
    axis.set_xlabel("modalities missing at random (%)")


def percent(shares: Sequence[float]) -> list[float]:
    """Return shares of 0..1 in per cent."""
    return [100 * share for share in shares]


if __name__ == "__main__":
    main()
