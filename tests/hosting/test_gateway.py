"""What a gateway answers, and what it does when versions come, go and die."""

from __future__ import annotations

import asyncio
import errno
import math
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from tests.hosting.harness import PATIENCE_S, FakeHomes, MemoryHttp, Running, Stand, model, triples

from fourfold.core.errors import Conflict, Unavailable
from fourfold.core.hosting import Duty, EndpointSettings, Health, Missing, Phase
from fourfold.core.ports.model_worker import WorkerGone
from fourfold.mlplatform.hosting.gateway import GatewayProcess
from fourfold.testing.model_workers import FakeWorkers

pytestmark = pytest.mark.slow

ROW = {"distance": 100.0, "carrier": "UA"}


def _score(answer: Any, position: int = 0) -> Any:
    assert answer.status == 200, answer.body
    return answer.body["predictions"][position]["outputs"]["score"]


def test_a_prediction_names_its_version_and_has_an_id_of_its_own(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await gateway.deploy("m/1")
            answer = await gateway.predict(ROW, {"distance": 1, "carrier": None})
            assert [_score(answer), _score(answer, 1)] == [200.0, 2.0]
            told = answer.body["predictions"]
            assert {one["model"] for one in told} == {"m/1"}
            assert len({one["id"] for one in told}) == 2

    asyncio.run(run())


def test_missing_values_and_what_is_not_finite_travel_as_json_can_say_them(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await gateway.deploy("m/1")
            given: list[Any] = [None, "NaN", "Infinity", "-Infinity"]
            answer = await gateway.predict(*({"distance": each, "carrier": "UA"} for each in given))
            assert [_score(answer, i) for i in range(4)] == given
            raw = b'{"rows": [{"distance": NaN, "carrier": "UA"}]}'
            refused = await gateway.ask("POST", "/endpoints/late/predict", raw=raw)
            assert refused.status == 422  # NaN is no JSON
            logged = (await gateway.log()).sort_by("prediction_id").column("predicted_score").to_pylist()
            assert logged[0] is None
            assert math.isnan(logged[1])
            assert logged[2:] == [math.inf, -math.inf]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"distance": 1.0}, "row 0 has no 'carrier'"),
        ({"distance": "far", "carrier": "UA"}, "'distance' is 'far'; it takes a number"),
        ({"distance": True, "carrier": "UA"}, "'distance' is True"),
        ({"distance": 1.0, "carrier": 7}, "'carrier' is 7; it takes text"),
        ({"distance": 1.0, "carrier": "UA", "wieght": 1}, "column 'wieght' is not known"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_its_column(
    stand: Stand, row: dict[str, object], words: str
) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:
            await gateway.deploy("m/1")
            answer = await gateway.predict(row)
            assert answer.status == 422
            assert words in answer.body["error"]
            assert fake.batch_rows == []  # it never met the model

    asyncio.run(run())


def test_one_request_that_the_model_refuses_does_not_fail_its_neighbours(stand: Stand) -> None:
    def picky(rows: pa.RecordBatch) -> pa.RecordBatch:
        if "XX" in rows.column("carrier").to_pylist():
            raise ValueError("no such carrier")
        return triples(rows)

    async def run() -> None:
        async with stand.gateway({"m/1": model(picky)}) as gateway:
            await gateway.deploy("m/1")
            carriers = ["UA", "XX", "AA"]
            answers = await asyncio.gather(*(gateway.predict({**ROW, "carrier": c}) for c in carriers))
            assert [answer.status for answer in answers] == [200, 422, 200]
            assert "ValueError: no such carrier" in answers[1].body["error"]

    asyncio.run(run())


def test_requests_that_wait_go_together_and_each_gets_its_own_answer(stand: Stand) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:
            await gateway.deploy("m/1", settings=EndpointSettings(batch_rows_max=16))
            fake.hold = asyncio.Event()
            asked = [
                asyncio.create_task(gateway.predict({"distance": float(i), "carrier": "UA"}))
                for i in range(40)
            ]
            await gateway.until(lambda: gateway.process.endpoints["late"].traffic().queue_rows > 20)
            fake.hold.set()
            assert [_score(answer) for answer in await asyncio.gather(*asked)] == [2.0 * i for i in range(40)]
            assert max(fake.batch_rows) == 16
            assert len(fake.batch_rows) < 8

    asyncio.run(run())


def test_a_full_queue_answers_503_and_when_to_come_back(stand: Stand) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:
            await gateway.deploy("m/1", settings=EndpointSettings(queue_rows_max=4, batch_rows_max=1))
            fake.hold = asyncio.Event()
            asked = [asyncio.create_task(gateway.predict(ROW)) for _ in range(12)]
            await gateway.until(lambda: sum(task.done() for task in asked) >= 7)
            shed = [task.result() for task in asked if task.done()]
            assert {answer.status for answer in shed} == {503}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in shed)
            assert "the queue holds 4 of at most 4 rows" in shed[0].body["error"]
            fake.hold.set()
            answers = await asyncio.gather(*asked)
            assert sum(answer.status == 200 for answer in answers) == 12 - len(shed)
            assert gateway.process.endpoints["late"].traffic().shed_count == len(shed)

    asyncio.run(run())


def test_a_request_is_given_up_at_its_deadline_and_the_next_one_answered(stand: Stand) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:
            await gateway.deploy("m/1")
            fake.hold = asyncio.Event()
            late = await gateway.predict(ROW, x_request_timeout_s="0.05")
            assert late.status == 504
            assert "deadline" in late.body["error"]
            fake.hold.set()
            assert _score(await gateway.predict(ROW)) == 200.0
            assert (await gateway.predict(ROW, x_request_timeout_s="-1")).status == 422

    asyncio.run(run())


def test_more_rows_than_a_request_may_have_are_refused(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await gateway.deploy("m/1", settings=EndpointSettings(request_rows_max=2))
            answer = await gateway.predict(ROW, ROW, ROW)
            assert answer.status == 422
            assert "predict_table" in " ".join(answer.body["ways_on"])
            assert (await gateway.predict()).status == 422

    asyncio.run(run())


def test_features_are_looked_up_and_a_missing_entity_is_told(stand: Stand) -> None:
    inputs = pa.schema([("distance", pa.float64()), ("delay", pa.float64())])
    stand.storage.append("carrier_delays", pa.table({"carrier": ["UA"]}))

    async def run() -> None:
        async with stand.gateway({"m/1": model(inputs=inputs)}) as gateway:
            await gateway.deploy("m/1", features="carriers@1", settings=EndpointSettings(features="carriers"))
            answer = await gateway.predict(ROW, {"distance": 1.0, "carrier": "ZZ"})
            known, unknown = answer.body["predictions"]
            assert (known["missing"], unknown["missing"]) == ([], ["delay"])
            assert known["watermark"] == 7
            lacking = await gateway.predict({"distance": 1.0})
            assert lacking.status == 422
            assert "the row has no key 'carrier'" in lacking.body["error"]
            logged = (await gateway.log()).sort_by("prediction_id")
            assert logged.column("delay").to_pylist() == [12.5, None]  # as served
            assert logged.column("carrier").to_pylist() == ["UA", "ZZ"]
            assert logged.column("prediction_watermark").to_pylist() == [7, 7]
            await gateway.deploy(
                "m/1", features="carriers@1", settings=EndpointSettings(missing=Missing.refuse)
            )
            refused = await gateway.predict(ROW, {"distance": 1.0, "carrier": "ZZ"})
            assert refused.status == 422
            assert "nothing is known of carrier='ZZ'" in refused.body["error"]

    asyncio.run(run())


def test_no_request_fails_while_versions_take_over_from_each_other(stand: Stand) -> None:
    async def run() -> None:
        models = {f"m/{number}": model() for number in range(1, 6)}
        async with stand.gateway(models) as gateway:
            await gateway.deploy("m/1")
            statuses: list[int] = []
            is_over = False

            async def client() -> None:
                while not is_over:
                    statuses.append((await gateway.predict(ROW)).status)

            clients = [asyncio.create_task(client()) for _ in range(4)]
            for number in range(2, 6):
                await gateway.deploy(f"m/{number}")
            is_over = True
            await asyncio.gather(*clients)
            assert set(statuses) == {200}
            answer = await gateway.predict(ROW)
            assert answer.body["predictions"][0]["model"] == "m/5"
            await gateway.until(lambda: len(gateway.workers.running()) == 1)  # the others are gone

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("flaw", ["load_error", "warm_error"])
def test_a_version_that_is_not_fit_does_not_take_over(stand: Stand, flaw: str) -> None:
    async def run() -> None:
        bad = model()
        setattr(bad, flaw, "its example came out wrong")
        async with stand.gateway({"m/1": model(), "m/2": bad}) as gateway:
            await gateway.deploy("m/1")
            failed = await gateway.deploy("m/2")
            assert failed.phase is Phase.failed
            assert "its example came out wrong" in failed.reason
            answer = await gateway.predict(ROW)
            assert answer.body["predictions"][0]["model"] == "m/1"
            assert gateway.process.endpoints["late"].health()[0] is Health.ready

    asyncio.run(run())


def test_a_worker_that_dies_is_replaced_and_its_requests_are_answered(stand: Stand) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:
            await gateway.deploy("m/1")
            fake.hold = asyncio.Event()
            asked = [asyncio.create_task(gateway.predict(ROW)) for _ in range(5)]
            await gateway.until(lambda: bool(fake.batch_rows))
            gateway.workers.kill(gateway.workers.running()[0])
            fake.hold = None
            await gateway.restart()
            assert [_score(answer) for answer in await asyncio.gather(*asked)] == [200.0] * 5
            assert gateway.process.endpoints["late"].traffic().retried_count >= 1
            assert len(gateway.workers.running()) == 1

    asyncio.run(run())


def test_rows_that_end_workers_fail_only_their_own_request(stand: Stand) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:

            def deadly(rows: pa.RecordBatch) -> pa.RecordBatch:
                if "XX" in rows.column("carrier").to_pylist():
                    gateway.workers.kill(gateway.workers.running()[0])
                    raise WorkerGone("the worker process of the model ended")
                return triples(rows)

            fake.answer = deadly
            await gateway.deploy("m/1")
            carriers = ["UA", "XX", "AA", "DL"]
            asked = [asyncio.create_task(gateway.predict({**ROW, "carrier": c})) for c in carriers]
            for _ in range(2):  # under the batch, then under the request alone
                await gateway.restart()
            answers = await asyncio.gather(*asked)
            assert [answer.status for answer in answers] == [200, 503, 200, 200]
            assert "died twice under this request" in answers[1].body["error"]

    asyncio.run(run())


@pytest.mark.slow
def test_a_request_to_a_dead_version_ends_with_503_not_never(stand: Stand) -> None:
    async def run() -> None:
        fake = model()
        async with stand.gateway({"m/1": fake}) as gateway:
            await gateway.deploy("m/1")
            gateway.workers.kill(gateway.workers.running()[0])
            await gateway.until(
                lambda: gateway.process.endpoints["late"].health()[0] is Health.degraded
            )  # the clock stands, so it is not restarted
            answer = await gateway.predict(ROW, x_request_timeout_s="0.05")
            assert answer.status == 503
            assert "its worker ended" in answer.body["error"]
            assert "retry-after" in answer.headers

    asyncio.run(run())


def test_a_shadow_sees_each_request_and_is_never_heard(stand: Stand) -> None:
    async def run() -> None:
        challenger = model(triples)
        async with stand.gateway({"m/1": model(), "m/2": challenger}) as gateway:
            await gateway.deploy("m/1")
            await gateway.deploy("m/2", duty=Duty.shadow)
            challenger.hold = asyncio.Event()  # as slow as can be
            answers = [await gateway.predict({**ROW, "distance": float(i)}) for i in range(5)]
            assert [_score(answer) for answer in answers] == [2.0 * i for i in range(5)]
            challenger.hold.set()
            log = await gateway.log()
            pairs: dict[str, dict[str, float]] = {}
            for row in log.to_pylist():
                pairs.setdefault(row["prediction_id"], {})[row["prediction_model"]] = row["predicted_score"]
            assert len(pairs) == 5
            assert all(pair["m/2"] == 1.5 * pair["m/1"] for pair in pairs.values())
            challenger.hold = None
            challenger.answer = lambda rows: 1 / 0
            assert _score(await gateway.predict(ROW)) == 200.0

    asyncio.run(run())


@pytest.mark.slow
def test_feedback_is_kept_by_prediction(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await gateway.deploy("m/1")
            made = (await gateway.predict(ROW)).body["predictions"][0]["id"]
            path = "/endpoints/late/feedback"
            assert (
                await gateway.ask("POST", path, {"prediction": made, "values": {"late": True}})
            ).status == 200
            wrong = await gateway.ask("POST", path, {"prediction": "7", "values": {"late": True}})
            assert wrong.status == 422
            assert "is not the id of a prediction" in wrong.body["error"]
            empty = await gateway.ask("POST", path, {"prediction": made, "values": {}})
            assert empty.status == 422
            await gateway.process.flush("late")
            (row,) = stand.storage.read("feedback.late").to_pylist()
            assert (row["prediction_id"], row["name"], row["number"]) == (made, "late", 1.0)

    asyncio.run(run())


@pytest.mark.slow
def test_a_next_gateway_serves_what_the_last_one_served(stand: Stand) -> None:
    async def run() -> None:
        models = {"m/1": model(), "m/2": model(triples)}
        async with stand.gateway(models) as gateway:
            await gateway.deploy("m/1")
            await gateway.deploy("m/2", duty=Duty.shadow)
        async with stand.gateway(models) as gateway:
            endpoint = gateway.process
            await endpoint.reconcile()
            await gateway.until(lambda: endpoint.endpoints["late"].shadow is not None)
            await gateway.until(lambda: endpoint.endpoints["late"].live is not None)
            assert _score(await gateway.predict(ROW)) == 200.0

    asyncio.run(run())


def test_a_project_has_one_gateway_at_a_time(stand: Stand) -> None:
    class Alive:
        def is_alive(self, url: str) -> bool:
            del url
            return True

    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as first:
            workers = FakeWorkers({})
            others: Any = {
                "http": MemoryHttp(),
                "client": Alive(),
                "engine": workers,
                "door": workers,
            }
            second = GatewayProcess(replace(first.process.parts, **others))
            with pytest.raises(Conflict, match="a gateway of this project runs already"):
                await asyncio.wait_for(second.run(port=4042), PATIENCE_S)
            assert await _serves(first)

    async def _serves(gateway: Running) -> bool:
        await gateway.deploy("m/1")
        return _score(await gateway.predict(ROW)) == 200.0  # type: ignore[no-any-return]

    asyncio.run(run())


def test_a_deployment_whose_start_meets_a_full_disk_fails_with_the_reason(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FakeHomes, version: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FakeHomes, "home", full)

    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            found = await gateway.deploy("m/1")
            assert found.phase is Phase.failed
            assert "No space left on device" in found.reason

    asyncio.run(run())


def test_the_gateway_goes_on_after_a_defect_and_after_a_catalog_that_was_away(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            tables, troubles = gateway.tables, [RuntimeError("a defect"), Unavailable("locked")]
            number, moved = tables.change_number, tables.moved

            def change_number() -> int:
                if troubles:
                    raise troubles.pop(0)
                return number()

            lost = [Unavailable("locked")]

            def first_lost(*given: Any, **more: Any) -> None:
                if lost:
                    raise lost.pop()
                moved(*given, **more)

            monkeypatch.setattr(gateway.process.parts.tables, "change_number", change_number)
            monkeypatch.setattr(gateway.process.parts.tables, "moved", first_lost)
            made = gateway.wish("m/1")  # nobody tells the gateway: it looks by itself
            await gateway.reach(made, lambda found: found.phase is Phase.serving)
            assert (troubles, lost) == ([], [])
            kinds = [event.kind for event in tables.events("late", limit=10)]
            assert kinds == ["serving", "warming", "starting", "asked"]

    asyncio.run(run())
