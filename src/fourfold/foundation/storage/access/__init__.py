"""Grants on tables, and the one place that asks them."""
