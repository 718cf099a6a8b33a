"""The HTTP service around `dimml.Predictor`, on BentoML."""
