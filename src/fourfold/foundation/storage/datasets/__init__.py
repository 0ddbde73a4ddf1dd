"""Datasets: what tables hold, what is expected of them, and named bundles of them."""
