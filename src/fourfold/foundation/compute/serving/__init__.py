"""Keeps services running: in the catalog what is wanted, on an engine what runs."""
