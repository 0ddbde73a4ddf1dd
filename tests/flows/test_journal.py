"""What a body does is journalled in words that can be read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pyarrow as pa

from fourfold.core.services.storage import Storage
from fourfold.core.storage import Digest
from fourfold.resources.flows import body as bodies
from fourfold.resources.flows.journal import journalled


class Noting(bodies.InlineBody):
    """A body that notes the arguments that would be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[object] = []

    def effect(self, _name: str, arguments: object, perform: Callable[[], Any]) -> Any:
        self.noted.append(arguments)
        return perform()


class Blobs:
    def put_blob(self, data: bytes) -> Digest:
        return Digest(data.decode())

    def scan(self, name: str) -> pa.RecordBatchReader:
        return pa.table({"n": [len(name)]}).to_reader()


def test_what_can_be_read_only_once_is_recorded_whole() -> None:
    storage = journalled(cast(Storage, Blobs()), name="storage", protocol=Storage)
    noting = Noting()
    with bodies.running(noting):
        assert storage.put_blob(iter([b"a", b"b"])) == "ab"
        assert storage.put_blob(b"c") == "c"
        assert storage.scan("four").read_all().to_pylist() == [{"n": 4}]
    assert noting.noted == [{"data": b"ab"}, {"data": b"c"}, {"name": "four"}]
