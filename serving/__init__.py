"""The HTTP service around `dimml.Predictor`, on BentoML."""

# `dimml` switches off the usage reports of the libraries that this package imports.
import dimml  # noqa: F401
