"""The options in the query string of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dimml.details import NO_DETAILS, Details
from dimml.errors import InputError
from dimml.samples import OnUnreadable
from serving.http.parsing import parse_pairs, reject_unknown


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """The options of a prediction, from the query string.

    Attributes:
        on_unreadable: See `Predictor.predict`.
        details: What the answer adds to the prediction.
    """

    on_unreadable: OnUnreadable = "error"
    details: Details = NO_DETAILS


_DEFAULT_OPTIONS = PredictOptions()
_OPTION_VALUES: dict[str, dict[str, Any]] = {
    "on_unreadable": {"error": "error", "absent": "absent"},
    "features": {"0": False, "1": True},
    "explain": {"0": False, "1": True},
}


def parse_query(query: str) -> PredictOptions:
    """Return the options in the query string.

    Raises:
        InputError: `unknown_field` if there is another parameter; `invalid_request` if a value is
            not accepted or occurs more than once.
    """
    if not query:
        return _DEFAULT_OPTIONS
    options: dict[str, Any] = {}
    for name, value in parse_pairs(query):
        accepted = _OPTION_VALUES.get(name)
        if accepted is None:
            reject_unknown(name, _OPTION_VALUES, "query parameter")
        if name in options or value not in accepted:
            values = " or ".join(f'"{value}"' for value in accepted)
            text = f"send {name} once, with the value {values}"
            raise InputError("invalid_request", text, name)
        options[name] = accepted[value]
    on_unreadable = options.pop("on_unreadable", "error")
    return PredictOptions(on_unreadable, Details(**options))
