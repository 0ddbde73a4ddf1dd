"""Finding runs: a small language, and what it means in SQL."""
