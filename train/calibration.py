"""Calibration on the validation split: temperatures and the weights of the modalities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.fusion import CertaintyFusion, certainty, certainty_weights
from dimml.samples import subsets
from train.subset_blocks import SubsetBlock, subset_blocks
from train.temperatures import MIN_ROWS, TEMPERATURES, fit_subset_temperatures

UNIFORM = 1e6
"""A temperature of the certainty weights that makes them equal to about 1e-6."""

Rule = Literal["paper", "average", "certainty", "pooled", "sum"]
"""How the logits of the modalities are joined, always by `certainty_weights` and a sum.

- paper: the shared classifier's logits as they are, T of 1 or 3; nothing is calibrated. Source:
  DI-MML, arXiv 2407.19514.
- average: logits calibrated per modality and per subset, with equal weights.
- certainty: the same calibration, with T chosen on validation.
- pooled: the same calibration, with T and a bias per modality fitted: log-linear pooling (Genest
  and Zidek 1986, Statistical Science 1, 114-135) whose weights follow certainty.
- sum: the logits are summed as the classifier gives them, then calibrated per subset. A modality
  with large logits counts for more: its weight is its temperature (b = log t, T infinite).
"""

FUSION_TEMPERATURES: dict[Rule, tuple[float, ...]] = {
    "paper": (1.0, 3.0),
    "average": (UNIFORM,),
    "certainty": (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0),
    "pooled": (0.1, 0.3, 1.0, 10.0),
    "sum": (UNIFORM,),
}
"""The fusion temperatures that are tried; for `pooled`, the starting points of the fit."""
MAX_FITTED_LOGITS = 2**22
"""Rows * classes of a fit, which evaluates them hundreds of times; of more rows, it has some."""
MAX_BLOCK_LOGITS = 2**24
"""Rows * classes that are answered at once, which are 64 MiB for each tensor of logits."""
POOLED_TEMPERATURES = (0.01, 100.0)
"""Bounds of the temperature of the certainty weights that `pooled` fits."""
PENALTY = 1e-3
"""Weight of the squared steps in `pooled`, which keeps undetermined parameters where they were."""


class EncodedRows(NamedTuple):
    """Rows of a split as the encoders of a model see them.

    Attributes:
        features: [N rows, M modalities, D]; absent slots may hold anything.
        present: bool [N, M].
        labels: int64 [N], `UNLABELLED` for a row without a label.
    """

    features: Tensor
    present: Tensor
    labels: Tensor

    def select(self, rows: Tensor) -> EncodedRows:
        """Return some of the rows, selected by a mask [N] or by their numbers."""
        return EncodedRows(self.features[rows], self.present[rows], self.labels[rows])

    def blocks(self, classes: int) -> Iterator[EncodedRows]:
        """Yield the rows in order, in blocks whose logits fit into memory."""
        size = max(1, MAX_BLOCK_LOGITS // classes)
        for parts in zip(*(torch.split(values, size) for values in self), strict=True):
            yield EncodedRows(*parts)

    def to_fit(self, classes: int) -> EncodedRows:
        """Return the rows, or always the same sample of them, if they are too many for a fit."""
        count = max(1, MAX_FITTED_LOGITS // classes)
        if len(self.labels) <= count:
            return self
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(2))
        return self.select(order[:count].sort().values)


def subset_mask(subset: tuple[str, ...], modalities: tuple[str, ...], device: Any = None) -> Tensor:
    """Return the slots of a subset as a mask, bool [M]."""
    return torch.tensor([name in subset for name in modalities], device=device)


def subset_rows(
    modalities: tuple[str, ...], present: Tensor
) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Yield each subset that occurs, the rows that have at least it, and a mask of its slots.

    Args:
        modalities: Names in slot order.
        present: bool [N, M].

    Yields:
        The names of the subset, its rows bool [N], and its mask bool [n, M], repeated for each row.
    """
    for subset in subsets(modalities):
        mask = subset_mask(subset, modalities, present.device)
        rows = present[:, mask].all(dim=1)
        if rows.any():
            yield subset, rows, mask.expand(int(rows.sum()), -1)


class FusionAnswers:
    """The answers of a fusion to rows from subsets of their modalities.

    What each modality says alone is the same in all subsets, and is computed once.

    Args:
        fusion: The fusion. Its modality temperatures are read here, the rest at each answer.
        rows: The rows.

    Attributes:
        fusion: The fusion.
        rows: The rows.
        logits: Calibrated logits of the modalities, [N, M, K], 0 where absent.
        sure: Their `certainty`, [N, M].
    """

    def __init__(self, fusion: CertaintyFusion, rows: EncodedRows) -> None:
        self.fusion = fusion
        self.rows = rows
        logits, self._scale = fusion.classify(rows.features, rows.present)
        self.logits = logits / fusion.modality_temperature.unsqueeze(-1)
        self.sure = certainty(self.logits)

    def labels(self, block: SubsetBlock) -> Tensor:
        """Return the true labels of a block's pairs, [R]."""
        return self.rows.labels[block.rows]

    def late(self, block: SubsetBlock) -> Tensor:
        """Return the probabilities [R, K] without interaction heads."""
        return self._fuse(block, None)

    def joint_logits(self, block: SubsetBlock) -> Tensor | None:
        """Return the logits of the interaction heads [R, H, K], None without heads."""
        scale = torch.where(block.mask, self._scale[block.rows], 1.0)
        return self.fusion.joint_logits(self.rows.features[block.rows], block.mask, scale)

    def __call__(self, block: SubsetBlock) -> Tensor:
        """Return the probabilities [R, K]."""
        interaction = self.fusion.interaction
        if interaction is None or not bool(interaction.share.any()):
            return self.late(block)
        return self._fuse(block, self.joint_logits(block))

    def _fuse(self, block: SubsetBlock, joint: Tensor | None) -> Tensor:
        rows = block.rows
        fused = self.fusion.fuse(self.logits[rows], block.mask, None, joint, self.sure[rows])
        return fused[0]

    def blocks(
        self, smallest: int = 1, fewest: int = 1, heads: bool = True
    ) -> Iterator[SubsetBlock]:
        """Yield the subsets with at least so many modalities and rows.

        Args:
            smallest: The least number of modalities.
            fewest: The least number of rows.
            heads: Whether the interaction heads answer, too, which takes more memory.
        """
        features = self.rows.features if heads and self.fusion.interaction else self.logits
        sizes = range(smallest, self.logits.shape[1] + 1)
        return subset_blocks(self.rows.present, features[:1].numel(), sizes, fewest)


@torch.no_grad()
def calibrate(fusion: CertaintyFusion, rows: EncodedRows, rule: Rule) -> None:
    """Fit the free parameters of a rule by the negative log-likelihood, and set them.

    The fit takes one temperature per modality (Guo et al. 2017, arXiv 1706.04599), then the fusion
    temperature by the mean over subsets, then one temperature per subset of two or more modalities,
    see `fit_subset_temperatures`.

    Args:
        fusion: The fusion to calibrate.
        rows: Labelled rows of the validation split.
        rule: How the modalities are joined.
    """
    slots = rows.present.shape[1]
    modality, bias = torch.ones(slots), torch.zeros(slots)
    if rule != "paper":
        modality = _modality_temperatures(fusion, rows)
    if rule == "sum":
        bias = modality.log()
    ones = torch.ones(2**slots)
    fusion.set_calibration(modality, 1.0, ones, bias)
    answers = FusionAnswers(fusion, rows)
    candidates = []
    for temperature in FUSION_TEMPERATURES[rule]:
        fusion.set_calibration(modality, temperature, ones, bias)
        if rule != "paper":
            _fit_table(answers)
        loss = _late_loss(answers) if len(FUSION_TEMPERATURES[rule]) > 1 else 0.0
        candidates.append((loss, temperature, fusion.subset_temperature.clone()))
    _, temperature, table = min(candidates, key=lambda candidate: candidate[0])
    fusion.set_calibration(modality, temperature, table, bias)
    if rule == "pooled" and (weights := _fit_pooling(answers)):
        fusion.set_calibration(modality, weights[0], ones, weights[1])
        _fit_table(answers)


def _fit_table(answers: FusionAnswers) -> None:
    """Fit and set the temperatures of the subsets of a fusion that has none yet."""
    fusion, rows = answers.fusion, answers.rows

    def log_late(block: SubsetBlock) -> Tensor:
        return answers.late(block).clamp_min(1e-12).log()

    width, sizes = answers.logits[:1].numel(), range(2, rows.present.shape[1] + 1)
    table = fit_subset_temperatures(log_late, rows.present, rows.labels, width, sizes)
    fusion.set_calibration(
        fusion.modality_temperature.clone(),
        fusion.fusion_temperature.clone(),
        table,
        fusion.modality_bias.clone(),
    )


def _late_loss(answers: FusionAnswers) -> float:
    """Return the negative log-likelihood, the mean over subsets of the means over rows."""
    means = []
    for block in answers.blocks(smallest=2, heads=False):
        log = answers.late(block).clamp_min(1e-12).log()
        means.append(block.mean(functional.nll_loss(log, answers.labels(block), reduction="none")))
    return float(torch.cat(means).mean()) if means else 0.0


def _modality_temperatures(fusion: CertaintyFusion, rows: EncodedRows) -> Tensor:
    """Return the temperature of each modality's logits, [M]."""
    logits, _ = fusion.classify(rows.features, rows.present)

    def alone(block: SubsetBlock) -> Tensor:
        return logits[block.rows, block.mask.int().argmax(dim=1)]

    width, sizes = logits.shape[2], range(1, 2)
    table = fit_subset_temperatures(alone, rows.present, rows.labels, width, sizes)
    return table[[2**slot for slot in range(logits.shape[1])]]


def _fit_pooling(answers: FusionAnswers) -> tuple[Tensor, Tensor] | None:
    """Fit the fusion temperature and the biases, together with the temperatures of the subsets.

    Args:
        answers: The answers of a fusion that is calibrated with the values to start from.

    Returns:
        The fusion temperature and the biases, or None if there are no rows, or if the fit diverges.
    """
    fusion = answers.fusion
    blocks = list(answers.blocks(2, MIN_ROWS, heads=False)) or list(answers.blocks(2, heads=False))
    count = sum(len(block.subsets) for block in blocks)
    temperatures = torch.cat([fusion.fusion_temperature[None], fusion.subset_temperature])
    start = torch.cat([fusion.modality_bias, temperatures.log()]).double()
    step = torch.zeros_like(start, requires_grad=True)
    sizes = [len(fusion.modality_bias), 1, len(fusion.subset_temperature)]
    logits = answers.logits.double()
    sure = certainty(logits)
    optimizer = torch.optim.LBFGS([step], max_iter=200, line_search_fn="strong_wolfe")

    def parameters() -> tuple[Tensor, Tensor, Tensor]:
        bias, log_temperature, log_table = torch.split(start + step, sizes)
        # A few rows that are all right would send the temperatures to 0 or infinity.
        return (
            bias,
            log_temperature.clamp(*np.log(POOLED_TEMPERATURES)),
            log_table.clamp(*np.log(TEMPERATURES)),
        )

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = PENALTY * step.square().sum()
        torch.autograd.backward(total)
        for block in blocks:
            bias, log_temperature, log_table = parameters()
            weights = certainty_weights(sure[block.rows], block.mask, log_temperature.exp(), bias)
            fused = torch.einsum("rm,rmk->rk", weights, logits[block.rows])
            fused = fused / log_table[block.subsets].exp()[block.segment].unsqueeze(-1)
            losses = functional.cross_entropy(fused, answers.labels(block), reduction="none")
            loss = block.mean(losses).sum() / count
            # Block by block, so that the graph of one block is in memory at a time.
            torch.autograd.backward(loss)
            total = total.detach() + loss.detach()
        return total

    if not blocks:
        return None
    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    if not bool(step.isfinite().all()):
        # The fit diverged, so the values that were fitted one after the other stay.
        return None
    with torch.no_grad():
        bias, log_temperature, _ = parameters()
    # A bias that all modalities share has no effect, so the mean is taken out.
    return log_temperature[0].exp(), bias - bias.mean()
