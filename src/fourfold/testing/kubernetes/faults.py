"""What a test may do to the API server: refuse, cut, hang or answer late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """Instead of the answer, or in the middle of it."""

    status: int = 0
    """This status, as a `Status` object, instead of an answer; the request has no effect."""
    message: str = "a fault of the test"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """So many bytes of the answer are sent (of a watch: events), then the connection is cut."""
    hangs: bool = False
    """No answer until the cluster is closed or the client has gone."""
    cut_before: bool = False
    """The connection is cut instead of an answer; the request has no effect."""
    loses_answer: bool = False
    """The request has its effect, and the connection is cut before the answer."""
