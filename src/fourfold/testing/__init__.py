"""Conformance kits that every adapter must pass, and in-memory fakes that pass them too."""
