"""Training: recipes, data, methods, calibration, evaluation."""
