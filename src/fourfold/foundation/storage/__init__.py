"""Versioned tables and content-addressed files, with lineage."""
