"""Floor 4: where people develop: environments, notebooks, containers."""
