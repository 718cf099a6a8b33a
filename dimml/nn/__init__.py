"""The method in PyTorch: the only place under `dimml` that imports torch."""
