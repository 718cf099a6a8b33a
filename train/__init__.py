"""Training: recipes, data, methods, calibration, evaluation and comparison."""

# `dimml` switches off the usage reports of the libraries that this package imports.
import dimml  # noqa: F401
