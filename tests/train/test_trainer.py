from __future__ import annotations

import warnings

from train.trainer import _silence_warnings

OURS = "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`"
OTHERS = "`isinstance(treespec, Other)` is deprecated"


def test_of_deprecations_exactly_the_one_of_lightning_itself_is_silent() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _silence_warnings()
        for message in (OURS, OTHERS):
            warnings.warn(message, FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in said] == [OTHERS]
