"""Runs and the model store: eight artifacts, not a blob."""
