from __future__ import annotations

import pytest
import torch

from train.methods.base import drop_modalities

PRESENT = torch.tensor([[True, True, True], [True, False, False], [False, True, True]] * 200)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 0.999])
def test_dropping_never_drops_all_and_never_adds(rate: float) -> None:
    kept = drop_modalities(PRESENT, rate, torch.Generator().manual_seed(0))
    assert kept.any(dim=1).all()
    assert not (kept & ~PRESENT).any()
    share = float(kept[::3].float().mean())
    assert share == pytest.approx(1 - rate + rate**3 / 3, abs=0.06)


def test_one_draw_takes_more_at_a_higher_rate() -> None:
    drawn = [
        drop_modalities(PRESENT, rate, torch.Generator().manual_seed(0)).sum()
        for rate in (0.0, 0.1, 0.3, 0.5)
    ]
    assert drawn[0] == PRESENT.sum()
    assert drawn == sorted(drawn, reverse=True)


def test_a_row_with_nothing_keeps_nothing() -> None:
    assert not drop_modalities(torch.zeros(4, 3, dtype=torch.bool), 0.5).any()
