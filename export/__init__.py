"""Export: a training run becomes a bundle, and a bundle becomes a bento."""

# `dimml` switches off the usage reports of the libraries that this package imports.
import dimml  # noqa: F401
