"""Settings of methods that a recipe validates before torch is imported.

Importing torch takes seconds. Without torch, a mistake in a recipe is reported at once.
"""

from __future__ import annotations

from typing import Annotated

import pydantic


class MethodOptions(pydantic.BaseModel):
    """Base of the settings of a method. An unknown key is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class DetachedTraining(MethodOptions):
    """The settings of the detached method in a recipe's `training`.

    These settings are not among the method's `options` because a comparison trains every method
    with one recipe. The recipe's `TrainingConfig` inherits them; only this method reads them.

    Attributes:
        warm_up: Number of epochs before the DUC loss takes part.
        lambda_shared: Weight of the shared classifier's cross-entropy.
        lambda_duc: Weight of the DUC loss.
        duc_temperature: Temperature of the DUC loss.
        normalize: Whether the DUC loss normalises its vectors.
        recompute_every: Number of epochs between computations of the effective dimensions; None
            computes them once.
    """

    warm_up: pydantic.NonNegativeInt = 8
    lambda_shared: pydantic.NonNegativeFloat = 1.0
    lambda_duc: pydantic.NonNegativeFloat = 1.0
    duc_temperature: pydantic.PositiveFloat = 10.0
    normalize: bool = False
    recompute_every: Annotated[int, pydantic.Field(ge=1)] | None = None
