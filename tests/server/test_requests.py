"""From requests to methods and back."""

from __future__ import annotations

import io
import struct

import pyarrow as pa
import pytest

from fourfold.server import dispatch
from fourfold.server.dispatch import ARROW

from .conftest import Leaf, Served, Shade

API = "/api/v1"


def test_query_arguments_arrive_typed(served: Served) -> None:
    response = served.client().get(
        f"{API}/leaves?shade=dark&names=a&names=b&most=3&is_fresh=false&sizes=[1,2]"
        '&where=[["day",">=","2013"],["n","==",1]]'
    )
    assert response.status_code == 200, response.text
    (asked,) = response.json()
    assert asked["size"] == 3
    assert list(asked["notes"]) == ["(1, 2) False (('day', '>=', '2013'), ('n', '==', 1)) ('a', 'b')"]


def test_json_arguments_arrive_typed(served: Served) -> None:
    response = served.client().put(f"{API}/leaves/oak", json={"leaf": {"size": 3, "shade": "dark"}})
    assert response.status_code == 200, response.text
    assert served.garden.grown == {"oak": Leaf(3, Shade.dark)}


def test_longer_routes_win_over_names_with_slashes_and_words_over_names(served: Served) -> None:
    client = served.client()
    assert client.get(f"{API}/leaves/oak/veins").json() == 3
    assert client.get(f"{API}/twigs/a/b/c").json() == "a/b/c"
    assert client.get(f"{API}/leaves/oak").json() is None


def test_a_picture_says_that_it_is_one_and_may_bring_nothing_but_its_colours(served: Served) -> None:
    response = served.client().get(f"{API}/portrait")
    assert response.headers["content-type"] == "image/svg+xml"
    policy = response.headers["content-security-policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    spec = served.client().get(f"{API}/openapi.json").json()
    answer = spec["paths"][f"{API}/portrait"]["get"]["responses"]["200"]
    assert list(answer["content"]) == ["image/svg+xml"]


def test_a_method_without_a_result_answers_204(served: Served) -> None:
    served.garden.grown["oak"] = Leaf(1)
    response = served.client().delete(f"{API}/leaves/oak")
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    ("verb", "path", "body", "says"),
    [
        ("GET", "/leaves?shadow=dark", None, "query argument 'shadow' is not known\n  did you mean 'shade'?"),
        ("GET", "/leaves?shade=pink", None, "shade: Invalid enum value 'pink'"),
        ("GET", "/leaves?most=many", None, "most: "),
        ("GET", "/leaves?most=1&most=2", None, "query argument 'most' is given 2 times"),
        ("PUT", "/leaves/oak", {"leef": {"size": 1}}, "field 'leef' is not known\n  did you mean 'leaf'?"),
        ("PUT", "/leaves/oak", {"leaf": {"sise": 1}}, "leaf has no field 'sise'\n  did you mean 'size'?"),
        (
            "PUT",
            "/leaves/oak",
            {"leaf": {"size": 1}, "others": [{"size": 1}, {"size": 2, "x": 1}]},
            "others[1] has no field 'x'",
        ),
        ("PUT", "/leaves/oak", {"leaf": {"size": "big"}}, "leaf: Expected `int`, got `str` - at `$.size`"),
        ("PUT", "/leaves/oak", {}, "garden.grow needs 'leaf'"),
        ("PUT", "/leaves/oak", [1], "the body: Expected `object`, got `array`"),
        ("DELETE", "/leaves/oak", {"why": "old"}, "the request has a body, and this takes none"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    served: Served, verb: str, path: str, body: object, says: str
) -> None:
    response = served.client().request(verb, API + path, json=body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert "\n  ".join([error["message"], *error["ways_on"]]).startswith(says)
    assert error["code"] == "refused"
    assert served.garden.grown == {}


def test_broken_json_is_refused(served: Served) -> None:
    response = served.client().put(
        f"{API}/leaves/oak", content=b'{"leaf": ', headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422
    assert "the body: Input data was truncated" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "given", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_wrong_content_type_is_refused(served: Served, given: str) -> None:
    response = served.client().put(
        f"{API}/leaves/oak", content=b'{"leaf": {"size": 1}}', headers={"Content-Type": given}
    )
    assert response.status_code == 415
    assert "send 'Content-Type: application/json'" in response.json()["error"]["ways_on"]
    assert served.garden.grown == {}


def test_a_body_that_is_not_arrow_is_refused(served: Served) -> None:
    response = served.client().post(
        f"{API}/rain?name=x", content=b"not arrow", headers={"Content-Type": ARROW}
    )
    assert response.status_code == 422
    assert "not an Arrow IPC stream" in response.json()["error"]["message"]


def test_arrow_whose_offsets_lead_out_of_its_buffers_does_not_reach_the_service(served: Served) -> None:
    sink = io.BytesIO()
    table = pa.table({"a": ["x" * 10, "y" * 10, "zz"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    honest, forged = (struct.pack("<4i", 0, 10, *ends) for ends in ((20, 22), (2_000_000_000, 2_000_000_002)))
    assert honest in sink.getvalue()
    body = sink.getvalue().replace(honest, forged)
    response = served.client().post(f"{API}/rain?name=x", content=body, headers={"Content-Type": ARROW})
    assert response.status_code == 422
    assert "not an Arrow IPC stream" in response.json()["error"]["message"]


def test_a_table_larger_than_memory_should_hold_is_refused_unread(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "TABLE_BYTES", 1000)
    response = served.client().post(
        f"{API}/rain?name=x", content=b"0" * 1001, headers={"Content-Type": ARROW}
    )
    assert response.status_code == 413


@pytest.mark.parametrize("is_declared", [True, False])
def test_an_oversized_body_is_refused_before_it_is_read_whole(served: Served, is_declared: bool) -> None:
    sent = 0

    def pieces() -> object:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"[" * 10_000

    content = b"[" * 10_000_000 if is_declared else pieces()
    response = served.client().put(
        f"{API}/leaves/oak", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "the request's body is larger than 100000 bytes"
    response = served.client().post(
        f"{API}/seeds", content=b"s" * 200_000, headers={"Content-Type": "application/octet-stream"}
    )
    assert response.status_code == 413


def test_our_errors_travel_whole(served: Served) -> None:
    response = served.client().post(f"{API}/trouble/conflict")
    assert response.status_code == 409
    assert response.json() == {
        "error": {
            "code": "conflict",
            "message": "somebody was first",
            "ways_on": ["look again"],
            "facts": {"at": 3, "path": "x"},
        }
    }


def test_an_unknown_exception_is_a_defect_with_an_id_that_the_log_explains(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    response = served.client().post(f"{API}/trouble/other")
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "defect"
    assert "secret detail" not in response.text
    assert "Traceback" not in response.text
    error_id = error["facts"]["error_id"]
    (record,) = [r for r in caplog.records if error_id in r.getMessage()]
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])


def test_an_unknown_address_names_near_ones(served: Served) -> None:
    response = served.client().get(f"{API}/leafs")
    assert response.status_code == 404
    assert response.json()["error"]["ways_on"][0] == "did you mean '/api/v1/leaves'?"
    response = served.client().post(f"{API}/gardener")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


def test_health_version_metrics_and_front_page_answer(served: Served) -> None:
    client = served.client()
    served_names = [client.get("/health").json(), client.get("/version").json()]
    assert served_names == [{"status": "ok"}, {"version": "1.2.3", "project": "<b>test</b>"}]
    client.get(f"{API}/leaves")
    text = client.get("/metrics").text
    assert 'fourfold_http_requests_total{route="garden.leaves",status="200"} 1' in text
    assert text.endswith("# EOF\n")
    page = client.get("/").text
    assert "&lt;b&gt;test" in page
    assert "<b>" not in page
