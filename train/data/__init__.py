"""The data of a training run: splits, decoding, cache, augmentation, loading and corruption."""
