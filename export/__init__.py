"""Export: a training run becomes a bundle, and a bundle becomes a bento."""
