"""Runs: what an experiment tried, logged and kept."""
