"""The production decisions and loop under an invented clock and seeded faults."""
