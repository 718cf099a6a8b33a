from __future__ import annotations

import pytest
import torch

from train.methods.base import drop_modalities

PRESENT = torch.tensor([[True, True, True], [True, False, False], [False, True, True]] * 200)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 0.999])
def test_dropout_keeps_at_least_one_modality_and_adds_none(rate: float) -> None:
    kept = drop_modalities(PRESENT, rate, torch.Generator().manual_seed(0))
    assert kept.any(dim=1).all()
    assert not (kept & ~PRESENT).any()
    share = float(kept[::3].float().mean())
    assert share == pytest.approx(1 - rate + rate**3 / 3, abs=0.06)


def test_higher_rate_drops_more_in_the_same_draw() -> None:
    counts = [
        drop_modalities(PRESENT, rate, torch.Generator().manual_seed(0)).sum()
        for rate in (0.0, 0.1, 0.3, 0.5)
    ]
    assert counts[0] == PRESENT.sum()
    assert counts == sorted(counts, reverse=True)


def test_row_without_modalities_stays_empty() -> None:
    assert not drop_modalities(torch.zeros(4, 3, dtype=torch.bool), 0.5).any()
