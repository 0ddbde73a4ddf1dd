"""The prediction log loses nothing in silence, widens, and is read back in pairs."""

from __future__ import annotations

import asyncio
from typing import Any

import pyarrow as pa
import pytest
from tests.hosting.harness import INPUTS, OUTPUTS, Stand, model, triples

from fourfold.core.errors import OutOfSpace, Refused
from fourfold.core.hosting import Duty
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.mlplatform.hosting import comparing, log
from fourfold.mlplatform.hosting.log import EndpointLog, Served


def served(number: int, **given: Any) -> Served:
    row = {"distance": float(number), "carrier": "UA", **given}
    return Served(
        [f"prd_{number}"], "m/1", False, Instant(0), None, Instant(0), 1.0, [row], [{"score": 2.0 * number}]
    )


def kinds(schema: pa.Schema) -> dict[str, pa.DataType]:
    return dict(zip(schema.names, schema.types, strict=True))


class FullDisk:
    """Storage whose disk is full until it is freed."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.is_full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def append(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_full:
            raise OutOfSpace("the disk is full")
        return self.storage.append(*args, **kwargs)


def test_what_could_not_be_written_is_kept_in_order(storage: Storage) -> None:
    disk: Any = FullDisk(storage)
    endpoint = EndpointLog("late", disk)
    endpoint.know(kinds(INPUTS), OUTPUTS)
    endpoint.predicted(served(1))
    with pytest.raises(OutOfSpace):
        endpoint.write()
    endpoint.predicted(served(2))
    assert endpoint.row_count == 2
    disk.is_full = False
    assert endpoint.write() == 2
    assert endpoint.row_count == 0
    assert storage.read("predictions.late").column("prediction_id").to_pylist() == ["prd_1", "prd_2"]


def test_a_value_of_another_type_does_not_hold_up_the_rows_of_others(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = EndpointLog("late", storage)
    endpoint.know(kinds(INPUTS), OUTPUTS)
    for number, note in enumerate([None, 7, "seven", 10**30]):
        endpoint.predicted(served(number, note=note))
    assert endpoint.write() == 4
    assert "keeps 2 values of 'note' as null: they are not int64" in caplog.text
    endpoint.predicted(served(4, note="again"))
    endpoint.predicted(served(5, note=8))
    assert endpoint.write() == 2
    rows = storage.read("predictions.late").sort_by("prediction_id")
    assert rows["note"].to_pylist() == [None, 7, None, None, None, 8]
    assert rows["distance"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_rows_beyond_the_bound_are_dropped_and_counted(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "ROWS_MAX", 2)
    endpoint = EndpointLog("late", storage)
    for number in range(5):
        endpoint.predicted(served(number))
    assert (endpoint.row_count, endpoint.dropped_count) == (2, 3)


def test_a_version_with_other_columns_widens_the_log_and_one_with_other_types_is_refused(
    storage: Storage,
) -> None:
    endpoint = EndpointLog("late", storage)
    endpoint.know(kinds(INPUTS), OUTPUTS)
    endpoint.predicted(served(1))
    endpoint.write()
    endpoint.know({**kinds(INPUTS), "hour": pa.int64()}, OUTPUTS)
    endpoint.predicted(served(2, hour=7))
    endpoint.write()
    rows = storage.read("predictions.late").sort_by("prediction_id")
    assert rows.column("hour").to_pylist() == [None, 7]
    with pytest.raises(Refused, match="column 'carrier' is int64 now, and string in the log"):
        endpoint.know({"carrier": pa.int64()}, OUTPUTS)
    with pytest.raises(Refused, match="a name that the prediction log uses itself"):
        endpoint.know({"prediction_id": pa.string()}, OUTPUTS)


@pytest.mark.slow
def test_a_shadow_is_compared_in_pairs_and_by_what_came_of_them(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model(), "m/2": model(triples)}) as gateway:
            await gateway.deploy("m/1")
            await gateway.predict({"distance": 9.0, "carrier": "UA"})  # before the shadow: no pair
            await gateway.deploy("m/2", duty=Duty.shadow)
            for distance in (0.1, 0.2, 0.3):
                answer = await gateway.predict({"distance": distance, "carrier": "UA"})
                told = {
                    "prediction": answer.body["predictions"][0]["id"],
                    "values": {"delay": 3 * distance, "note": "fog"},
                }
                assert (await gateway.ask("POST", "/endpoints/late/feedback", told)).status == 200
            await gateway.process.flush("late")

    asyncio.run(run())
    found = comparing.compare(stand.storage, "late", "m/1", "m/2", output="", label="delay")
    assert (found.output, found.pair_count, found.labelled_count) == ("score", 3, 3)
    assert found.difference_mean == pytest.approx(0.2)
    assert found.shadow_metrics["mae"] == pytest.approx(0.0)
    assert found.live_metrics["mae"] == pytest.approx(0.2)
    with pytest.raises(Refused, match="no feedback of endpoint 'late' is named 'dely'"):
        comparing.compare(stand.storage, "late", "m/1", "m/2", output="", label="dely")
    with pytest.raises(Refused, match="has no output 'scroe'"):
        comparing.compare(stand.storage, "late", "m/1", "m/2", output="scroe", label="")
    served_rows = comparing.served(stand.storage, "late")
    assert served_rows.num_rows == 4
    assert {"at", "watermark"} <= set(served_rows.column_names)
    notes = comparing.with_feedback(stand.storage, "late", "note")
    assert set(notes.column("feedback").to_pylist()) == {"fog", None}
