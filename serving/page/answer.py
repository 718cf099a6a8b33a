"""The answer as HTML: the label, the probabilities, and what each modality said and weighed."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dimml.errors import list_first
from dimml.samples import subset_name

MAX_LABELS = 10
"""Labels with a bar."""
MAX_SET_LABELS = 50
"""Labels of a prediction set that are listed; a set may hold every label."""


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("answer.html.j2")


def render_answer(
    body: dict[str, Any] | None,
    names: Collection[str],
    coverage: float | None,
    off: Collection[str] = (),
    uncertified: Collection[str] = (),
) -> str:
    """Return the HTML of an answer of `POST /predict?explain=1`, or of its error.

    Args:
        body: The answer; None before the first request.
        names: The modalities of the bundle.
        coverage: The share of prediction sets that have the true label; None if it is not known.
        off: The modalities that the user has switched off.
        uncertified: Names of the subsets whose prediction sets have no coverage.
    """
    body = body or {}
    answer = body if "label" in body else None
    modalities = (answer or {}).get("modalities", {})
    subset = subset_name([name for name, one in modalities.items() if one["present"]])
    ranked = sorted((answer or {}).get("probabilities", {}).items(), key=lambda pair: -pair[1])
    return _template().render(
        answer=answer,
        error=body.get("error"),
        ranked=ranked[:MAX_LABELS],
        set=list_first(body.get("prediction_set", ()), MAX_SET_LABELS),
        names=names,
        coverage=None if subset in uncertified else coverage,
        uncertified=subset in uncertified,
        off=off,
        percent=percent_text,
        bar=_bar,
    )


def percent_text(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    # A probability that rounds to 0 or 100 % is no certainty.
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")


def _bar(share: float) -> Markup:
    """Return a bar, which the number beside it says in words."""
    return Markup('<i aria-hidden="true" style="width:{:.1f}%"></i>').format(100 * share)
