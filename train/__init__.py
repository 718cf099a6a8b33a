"""Training: recipes, data, methods, calibration, evaluation and comparison."""
