"""Pretrained models for training: reading their folders, tuning their weights."""

from __future__ import annotations

from train.pretrained.read import PretrainedModel, read_model

__all__ = ["PretrainedModel", "read_model"]
