"""Data of a training run: splits, decoding, cache, augmentation and loading."""
