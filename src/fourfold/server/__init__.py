"""The HTTP door: one ASGI app over the service protocols."""
