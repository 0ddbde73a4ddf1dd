"""What a table's columns hold: counted in one pass, kept as sketches that merge."""
