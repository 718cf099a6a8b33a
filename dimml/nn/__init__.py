"""The model in PyTorch: the only folder of `dimml` that imports torch."""
