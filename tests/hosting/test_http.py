"""The gateway's doors: the Open Inference Protocol, and who is kept out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.hosting.harness import Running, Stand, model

TENSORS = [
    {"name": "distance", "shape": [2], "datatype": "FP64", "data": [1.0, "NaN"]},
    {"name": "carrier", "shape": [2, 1], "datatype": "BYTES", "data": [["UA"], [None]]},
]


async def _deployed(gateway: Running) -> None:
    await gateway.deploy("m/1")


@pytest.mark.slow
def test_the_protocol_answers_in_its_own_shapes(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            ready = await gateway.ask("GET", "/v2/health/ready", token=None)
            assert (ready.status, ready.body) == (200, {"ready": True})
            await _deployed(gateway)
            assert (await gateway.ask("GET", "/v2")).body["name"] == "fourfold"
            assert (await gateway.ask("GET", "/v2/health/live", token=None)).body == {"live": True}
            assert (await gateway.ask("GET", "/v2/models/late/ready")).body == {"name": "late", "ready": True}
            told = (await gateway.ask("GET", "/v2/models/late/versions/1")).body
            assert told["versions"] == ["1"]
            assert told["inputs"] == [
                {"name": "distance", "datatype": "FP64", "shape": [-1]},
                {"name": "carrier", "datatype": "BYTES", "shape": [-1]},
            ]
            assert told["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [-1]}]
            answer = await gateway.ask("POST", "/v2/models/late/infer", {"id": "a", "inputs": TENSORS})
            assert answer.status == 200
            assert (answer.body["id"], answer.body["model_name"], answer.body["model_version"]) == (
                "a",
                "late",
                "1",
            )
            assert answer.body["outputs"] == [
                {"name": "score", "shape": [2], "datatype": "FP64", "data": [2.0, "NaN"]}
            ]
            assert answer.body["parameters"]["prediction_id"].startswith("prd_")

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": []}, "input 'distance' is missing"),
        ({"inputs": TENSORS[:1]}, "input 'carrier' is missing"),
        ({"inputs": [*TENSORS, TENSORS[0]]}, "is given twice"),
        ({"inputs": [{**TENSORS[0], "name": "x"}, TENSORS[1]]}, "input 'x' is not known"),
        ({"inputs": [{**TENSORS[0], "shape": [3]}, TENSORS[1]]}, "has shape [3] and 2 values"),
        ({"inputs": [{**TENSORS[0], "shape": [2, 3]}, TENSORS[1]]}, "has shape [2, 3]"),
        ({"inputs": [{**TENSORS[0], "datatype": "FP65"}, TENSORS[1]]}, "datatype 'FP65'"),
        ({"inputs": [{**TENSORS[0], "datatype": "INT8"}, TENSORS[1]]}, "which is not INT8"),
        (
            {"inputs": [{**TENSORS[0], "shape": [1], "data": [1.0]}, TENSORS[1]]},
            "inputs have different numbers of rows",
        ),
        ({"inputs": TENSORS, "outputs": [{"name": "scroe"}]}, "output 'scroe' is not known"),
        (
            {"inputs": TENSORS, "outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
            "tensors in binary are not spoken here",
        ),
        ({"rows": []}, "not an inference request"),
    ],
)
def test_a_request_that_breaks_the_protocol_is_a_400_that_says_where(
    stand: Stand, change: dict[str, Any], words: str
) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await _deployed(gateway)
            answer = await gateway.ask("POST", "/v2/models/late/infer", change)
            assert answer.status == 400, answer.body
            assert words in answer.body["error"]

    asyncio.run(run())


def test_a_body_that_no_reader_understands_is_refused_not_a_defect(stand: Stand) -> None:
    huge = b"1" + b"0" * 400
    feedback = b'{"prediction": "prd_1", "values": {"x": %b}}' % huge
    far = b'{"rows": [{"distance": 1.0, "carrier": "UA"}], "t": 2305843009213693952}'
    bad: list[tuple[str, bytes, str]] = [
        ("/endpoints/late/feedback", feedback, "feedback 'x' is 1000"),
        ("/endpoints/late/feedback", b'{"prediction": "\xff"}', "feedback: "),
        ("/endpoints/late/predict", b'{"rows": [{"carrier": "\xff"}]}', "not a request for predictions"),
        ("/endpoints/late/predict", far, "outside the years 1 to 9999"),
        ("/v2/models/late/infer", b'{"parameters":' + b'{"a":' * 100_000, "not an inference request"),
        ("/v2/models/late/infer", b'{"id": "\xff"}', "not an inference request"),
    ]

    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await _deployed(gateway)
            for path, body, words in bad:
                answer = await gateway.ask("POST", path, raw=body)
                assert answer.status in {400, 422}, (path, body[:60], answer.body)
                assert words in answer.body["error"]

    asyncio.run(run())


def test_whoever_names_what_is_not_there_learns_what_is(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await _deployed(gateway)
            for path in ("/v2/models/lat/infer", "/endpoints/lat/predict"):
                answer = await gateway.ask("POST", path, {"inputs": TENSORS})
                assert answer.status == 404
                assert answer.body["error"] == "endpoint 'lat' does not exist"
                assert answer.body["ways_on"] == ["did you mean 'late'?", "endpoints: late"]
            other = await gateway.ask("GET", "/v2/models/late/versions/2")
            assert other.status == 404
            assert other.body["ways_on"] == ["version 1 does"]
            assert (await gateway.ask("GET", "/v3")).status == 404

    asyncio.run(run())


def test_who_has_no_token_or_comes_from_elsewhere_is_kept_out(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await _deployed(gateway)
            path, row = "/endpoints/late/predict", {"rows": [{"distance": 1.0, "carrier": "UA"}]}
            for token in (None, "wrong", ""):
                answer = await gateway.ask("POST", path, row, token=token)
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
            assert (await gateway.ask("GET", "/v2/models/late", token="wrong")).status == 401
            assert (await gateway.ask("POST", path, row, host="evil.example:4041")).status == 403
            assert (await gateway.ask("POST", path, row, origin="http://evil.example")).status == 403
            assert (await gateway.ask("POST", path, row, content_type="text/plain")).status == 415
            assert (await gateway.ask("DELETE", path)).status == 405
            assert (await gateway.ask("POST", path, row)).status == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "path", ["/endpoints/../predict", "/v2/models/./infer", "/endpoints//predict", "/.."]
)
def test_a_path_that_climbs_is_refused(stand: Stand, path: str) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            answer = await gateway.ask("POST", path, {"rows": []})
            assert answer.status == 400
            assert "a path may not hold" in answer.body["error"]

    asyncio.run(run())


def test_a_body_beyond_its_bound_is_not_read(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await _deployed(gateway)
            answer = await gateway.ask(
                "POST", "/endpoints/late/predict", raw=b"{}", content_length=str(17 * 2**20)
            )
            assert answer.status == 413

    asyncio.run(run())


def test_figures_are_told_in_open_metrics(stand: Stand) -> None:
    async def run() -> None:
        async with stand.gateway({"m/1": model()}) as gateway:
            await _deployed(gateway)
            await gateway.predict({"distance": 1.0, "carrier": "UA"})
            text = (await gateway.ask("GET", "/metrics")).body.decode()
            assert 'fourfold_endpoint_requests_total{endpoint="late"} 1' in text
            assert 'model="m/1",health="ready"} 1' in text
            assert text.endswith("# EOF\n")

    asyncio.run(run())
