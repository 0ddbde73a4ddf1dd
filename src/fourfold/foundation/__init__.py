"""Floor 1: where data lives and where work runs."""
