"""Offline scoring."""
