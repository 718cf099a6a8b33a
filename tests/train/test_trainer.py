from __future__ import annotations

import warnings

from train.trainer import _silence_warnings

OURS = "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)`"
OTHERS = "`isinstance(treespec, Other)` is deprecated"


def test_only_the_deprecation_warning_of_lightning_itself_is_silenced() -> None:
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        _silence_warnings()
        for message in (OURS, OTHERS):
            warnings.warn(message, FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in recorded] == [OTHERS]
