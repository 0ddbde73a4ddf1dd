"""Versions: what a name holds, and which of them an alias means."""
