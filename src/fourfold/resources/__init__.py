"""Floor 2: what runs next, and where."""
