"""Export: a training run to a bundle, a bundle to a bento."""
