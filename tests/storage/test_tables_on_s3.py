"""Delta tables in an object store, over HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from tests.s3 import Answer, Ask, Asked, Proxy, fresh_bucket, refusal
from tests.storage.test_table_histories import Histories

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.objects import ObjectPlace
from fourfold.adapters.object_store import ObstoreObjects, filesystem
from fourfold.core.errors import NotFound, Unavailable
from fourfold.core.objects import ObjectAddress
from fourfold.core.ports.objects import ObjectStore
from fourfold.core.ports.tables import TableStore
from fourfold.testing.objects import MemoryObjects
from fourfold.testing.raising import raising
from fourfold.testing.table_kit import TableStoreKit
from fourfold.testing.table_kit.given import numbers, rows

pytestmark = pytest.mark.slow


def tables(objects: ObjectStore | str) -> DeltaTables:
    if isinstance(objects, str):
        objects = ObstoreObjects(ObjectAddress.parse(objects))
    return DeltaTables(ObjectPlace(objects, filesystem(objects)))


class TestDeltaOnObjects(TableStoreKit):
    """Without the network between, quickly."""

    @pytest.fixture
    def store(self) -> TableStore:
        return tables(MemoryObjects())


@pytest.mark.slow
class TestDeltaOnS3(TableStoreKit):
    @pytest.fixture
    def store(self, s3: str) -> TableStore:
        return tables(s3)


@pytest.mark.slow
class TestDeltaOnLocalbucket(TableStoreKit):
    @pytest.fixture
    def store(self, localbucket: str, aws: pytest.MonkeyPatch) -> TableStore:
        return tables(f"s3://{fresh_bucket(localbucket)}?endpoint={localbucket}")


class OnObjects(Histories):
    @staticmethod
    def make(folder: Path) -> TableStore:
        del folder
        return tables(MemoryObjects())


TestOnObjects = OnObjects.TestCase
TestOnObjects.settings = settings(max_examples=settings().max_examples // 3, stateful_step_count=20)
TestOnObjects.pytestmark = [pytest.mark.property]  # type: ignore[attr-defined]


WRITER = """
import sys
from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.objects import ObjectPlace
from fourfold.adapters.object_store import ObstoreObjects, filesystem
from fourfold.core.objects import ObjectAddress
from fourfold.testing.table_kit.given import rows
objects = ObstoreObjects(ObjectAddress.parse(sys.argv[1]))
store = DeltaTables(ObjectPlace(objects, filesystem(objects)))
print("ready", flush=True)
sys.stdin.readline()
for n in range(10):
    store.append("t", rows(int(sys.argv[2]) * 100 + n))
"""


@pytest.mark.slow
@pytest.mark.parametrize("server", ["moto", "localbucket"])
def test_four_writers_at_once_lose_nothing_and_fail_nothing(
    request: pytest.FixtureRequest, aws: pytest.MonkeyPatch, server: str
) -> None:
    endpoint = request.getfixturevalue(server)
    aws.setenv("AWS_ENDPOINT_URL", endpoint)
    s3 = f"s3://{fresh_bucket(endpoint)}/team"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, s3, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for n in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.communicate(b"go\n", timeout=200)
    assert [writer.returncode for writer in writers] == [0] * 4
    store = tables(s3)
    assert numbers(store) == [writer * 100 + n for writer in range(4) for n in range(10)]
    assert store.snapshot("t").version == 39


@pytest.mark.slow
@pytest.mark.parametrize("vanishing", [".parquet", "_delta_log/00000000000000000001.json"])
@pytest.mark.parametrize("is_applied", [False, True])
def test_a_store_that_vanishes_in_mid_write_leaves_the_table_whole(
    moto: str, aws: pytest.MonkeyPatch, vanishing: str, is_applied: bool
) -> None:
    bucket = fresh_bucket(moto)
    with Proxy(moto) as proxy:
        store = tables(f"s3://{bucket}?endpoint={proxy.endpoint}&patience_s=0.2")
        store.append("t", rows(1))

        def plan(asked: Asked, ask: Ask) -> Answer | None:
            if asked.method != "PUT" or vanishing not in asked.path:
                return ask(asked)
            if is_applied:
                ask(asked)
            proxy.vanish()
            return None

        proxy.plan = plan
        with raising(Unavailable):
            store.append("t", rows(2))
    back = tables(f"s3://{bucket}?endpoint={moto}")
    is_committed = is_applied and vanishing.endswith(".json")
    assert numbers(back) == ([1, 2] if is_committed else [1])
    assert back.append("t", rows(3)).version == (2 if is_committed else 1)


@pytest.mark.slow
def test_throttling_is_waited_for_and_a_lost_answer_makes_no_second_version(
    moto: str, aws: pytest.MonkeyPatch
) -> None:
    bucket = fresh_bucket(moto)
    with Proxy(moto) as proxy:
        store = tables(f"s3://{bucket}?endpoint={proxy.endpoint}&patience_s=2")
        lost = {"version 1", "version 3"}

        def plan(asked: Asked, ask: Ask) -> Answer | None:
            if asked.number % 3 == 0:
                return refusal(503, "SlowDown")
            answer = ask(asked)
            for version, broken in ((1, None), (3, refusal(500, "InternalError"))):
                is_entry = asked.method == "PUT" and asked.path.endswith(f"{version:020d}.json")
                if is_entry and f"version {version}" in lost:
                    lost.remove(f"version {version}")
                    return broken
            return answer

        proxy.plan = plan
        assert [store.append("t", rows(n)).version for n in range(5)] == [0, 1, 2, 3, 4]
        assert numbers(store) == [0, 1, 2, 3, 4]
        assert not lost


def test_a_drop_that_was_cut_off_hides_the_table_and_makes_way_for_a_new_one() -> None:
    class Dying(MemoryObjects):
        is_dying = False

        def delete(self, keys) -> None:  # type: ignore[no-untyped-def]
            for key in keys:
                super().delete([key])
                if self.is_dying:
                    raise Unavailable("killed")

    objects = Dying()
    tables(objects).append("t", rows(1, 2))
    tables(objects).append("t", rows(3))
    objects.is_dying = True
    with raising(Unavailable, naming="killed"):
        tables(objects).drop("t")
    objects.is_dying = False
    assert tables(objects).names() == ()
    with raising(NotFound):
        tables(objects).snapshot("t")
    assert tables(objects).append("t", rows(9)).version == 0
    assert numbers(tables(objects)) == [9]
    tables(objects).drop("t")
    assert list(objects.listing("tables")) == []


@pytest.mark.slow
def test_other_programs_read_the_table_with_our_address_and_options(s3: str) -> None:
    import deltalake

    objects = ObstoreObjects(ObjectAddress.parse(s3))
    store = tables(objects)
    store.append("t", rows(1, 2), partition_by=("day",))
    store.delete("t", where=(("n", "==", 1),))
    place = ObjectPlace(objects, filesystem(objects))
    options = dict(place.storage_options)
    theirs = deltalake.DeltaTable(place.uri("t"), storage_options=options)
    assert theirs.to_pyarrow_table()["n"].to_pylist() == [2]
    deltalake.write_deltalake(place.uri("t"), rows(3), mode="append", storage_options=options)
    assert numbers(store) == [2, 3]
