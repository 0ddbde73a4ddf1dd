"""The boxes of the flow, one module each, so that a change re-runs only what it touches."""
