"""Graphs on a CPU or a GPU: providers, sessions and the path of a batch."""
