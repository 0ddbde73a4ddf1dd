"""Predictions: online, in batch, and tested in production."""
