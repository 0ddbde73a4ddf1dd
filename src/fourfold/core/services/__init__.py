"""The services of the floors, as protocols: what the facade, the doors and a remote client share."""

from __future__ import annotations

from typing import Protocol


class Services(Protocol):
    """All services of one project. `wiring` opens them; a remote client fulfils the same."""
