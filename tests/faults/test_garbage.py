"""A project that was in use for a while, swept: what it needs is all there."""

from __future__ import annotations

import pytest
from tests.models.conftest import Store, fitted, replay_here

from fourfold.core.models import Host
from fourfold.core.upkeep import GRACE_S
from fourfold.mlplatform.models.service import Models
from fourfold.testing.clock import MovableClock

from .conftest import Project

pytestmark = pytest.mark.slow

FLOW = """\
import fourfold as ff


@ff.step
def make_bytes() -> bytes:
    return bytes(range(256)) * 1000


@ff.step
def shorten(data: bytes) -> bytes:
    return data[:128_000]


@ff.flow
def gives_bytes() -> bytes:
    return shorten(make_bytes()).result()
"""


def test_after_a_sweep_runs_answer_and_models_load(project: Project) -> None:
    (project.folder / "flow.py").write_text(FLOW)
    first = project.done("flow", "run", "flow.py", "gives_bytes", "--key", "once", "-q")
    with project.opened() as opened:
        clock = MovableClock(opened.clock.now())
        clock.advance(2 * GRACE_S)
        opened.parts["clock"] = clock
        models = Models(opened.database, opened.blobs, clock, replay=replay_here, here=Host("box", 1))
        store = Store(models, opened.blobs, clock, project.folder)  # type: ignore[arg-type]
        version = store.save(fitted())
        unwanted = {opened.blobs.put(b"unwanted %d" % number) for number in range(3)}
        clock.advance(2 * GRACE_S)
        before = set(opened.blobs.digests())
        done = opened.upkeep.collect_garbage()
        removed = before - set(opened.blobs.digests())
        assert unwanted <= removed
        assert (done.removed_count, done.is_complete) == (len(removed), True)
        assert opened.upkeep.missing() == opened.upkeep.check().bad == ()
        assert store.models.load(f"delays/{version.number}") is not None
    again = project.done("flow", "run", "flow.py", "gives_bytes", "--key", "once", "-q")
    assert again == first
