"""Floor 3: features, models, hosting."""
