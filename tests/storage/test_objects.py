"""Object stores over HTTP: the kit, and what stores and networks do to a request."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.s3 import Answer, Ask, Asked, Plan, Proxy, fresh_bucket, refusal

from fourfold.adapters.object_store import ObstoreObjects
from fourfold.core.errors import FourfoldError, NotFound, OutOfSpace, Refused, Unavailable
from fourfold.core.objects import Key, ObjectAddress
from fourfold.core.ports.objects import ObjectStore
from fourfold.testing.objects import LONG, MemoryObjects, ObjectStoreKit
from fourfold.testing.raising import raising

KEY = Key("k")


slow = pytest.mark.slow
"""Whatever asks a server: it takes a second or two to start."""


def opened(address: str) -> ObstoreObjects:
    return ObstoreObjects(ObjectAddress.parse(address))


class TestMemoryObjects(ObjectStoreKit):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return MemoryObjects()


@slow
class TestMoto(ObjectStoreKit):
    @pytest.fixture
    def objects(self, s3: str) -> ObjectStore:
        return opened(s3)


@slow
class TestLocalbucket(ObjectStoreKit):
    """A second server; it has no request that deletes many, and ignores If-Match."""

    @pytest.fixture
    def objects(self, localbucket: str, aws: pytest.MonkeyPatch) -> ObjectStore:
        return opened(f"s3://{fresh_bucket(localbucket)}?endpoint={localbucket}")


@pytest.fixture
def proxy(moto: str, aws: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(moto) as proxy:
        yield proxy


@pytest.fixture
def objects(proxy: Proxy, moto: str) -> ObstoreObjects:
    """A store behind the proxy that is given up after a second."""
    return opened(f"s3://{fresh_bucket(moto)}/x?endpoint={proxy.endpoint}&patience_s=1")


def first(times: int, answer: Answer | None, *, method: str = "", path: str = "") -> Plan:
    """The first requests get `answer` instead of the server's."""
    left = times

    def plan(asked: Asked, ask: Ask) -> Answer | None:
        nonlocal left
        if left and asked.method in (method or asked.method) and path in asked.path:
            left -= 1
            return answer
        return ask(asked)

    return plan


# What passes


@slow
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_throttling_and_errors_of_the_store_are_tried_again(
    proxy: Proxy, objects: ObstoreObjects, status: int
) -> None:
    for call in (
        lambda: objects.put(KEY, b"data"),
        lambda: objects.get(KEY),
        lambda: objects.stat(KEY),
        lambda: list(objects.listing("")),
        lambda: objects.create(Key("l"), b"data"),
        lambda: objects.delete([KEY]),
    ):
        proxy.plan = first(2, refusal(status, "SlowDown"))
        before = len(proxy.asked)
        call()
        assert len(proxy.asked) >= before + 3


@slow
def test_a_download_that_breaks_off_goes_on_from_there(proxy: Proxy, objects: ObstoreObjects) -> None:
    objects.put(KEY, LONG)
    broken: list[str] = []

    def plan(asked: Asked, ask: Ask) -> Answer:
        answer = ask(asked)
        if asked.method == "GET" and asked.range not in broken and len(broken) < 3:
            broken.append(asked.range)
            return Answer(answer.status, answer.headers, answer.body, cut=1000)
        return answer

    proxy.plan = plan
    assert objects.get(KEY) == LONG
    assert len(broken) == 3


@slow
def test_an_upload_whose_part_fails_sends_that_part_again(proxy: Proxy, objects: ObstoreObjects) -> None:
    proxy.plan = first(2, refusal(503, "SlowDown"), method="PUT", path="partNumber=2")
    objects.put(KEY, iter([LONG]))
    assert objects.get(KEY) == LONG
    assert len([path for path in proxy.paths("PUT") if "partNumber=2" in path]) == 3
    assert len([path for path in proxy.paths("PUT") if "partNumber=1" in path]) == 1


@slow
@pytest.mark.parametrize("lost", [None, refusal(503, "SlowDown")], ids=["connection", "503"])
def test_a_create_whose_answer_is_lost_finds_its_own_object(
    proxy: Proxy, objects: ObstoreObjects, lost: Answer | None
) -> None:
    objects.create(Key("probed"), b"")
    losses = 1

    def plan(asked: Asked, ask: Ask) -> Answer | None:
        nonlocal losses
        answer = ask(asked)
        if asked.method == "PUT" and losses:
            losses -= 1
            return lost
        return answer

    proxy.plan = plan
    assert objects.create(KEY, b"mine")
    assert not objects.create(KEY, b"another's")


# What does not pass


@slow
def test_a_store_that_never_recovers_is_unavailable_and_named(proxy: Proxy, objects: ObstoreObjects) -> None:
    proxy.plan = lambda *_: refusal(503, "SlowDown")
    with pytest.raises(Unavailable, match=objects.address.bucket) as caught:
        objects.put(KEY, b"data")
    assert proxy.endpoint in str(caught.value)
    assert "SlowDown" in str(caught.value)


@slow
def test_a_store_that_vanishes_in_mid_write_leaves_nothing(
    proxy: Proxy, objects: ObstoreObjects, moto: str
) -> None:
    objects.put(KEY, b"old")

    def source() -> Iterator[bytes]:
        yield LONG
        proxy.vanish()
        yield LONG

    with raising(Unavailable, naming=proxy.endpoint):
        objects.put(KEY, source())
    for call in (lambda: objects.get(KEY), lambda: objects.stat(KEY), lambda: objects.create(KEY, b"")):
        with raising(Unavailable, naming=proxy.endpoint):
            call()
    assert opened(f"{objects.address}?endpoint={moto}").get(KEY) == b"old"


@slow
@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "InvalidAccessKeyId", Refused, "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", Refused, "SignatureDoesNotMatch"),
        (401, "Unauthorized", Refused, "credentials"),
        (404, "NoSuchBucket", NotFound, "no bucket"),
        (507, "InsufficientStorage", OutOfSpace, "no room"),
        (301, "PermanentRedirect", Refused, "region"),
        (400, "AuthorizationHeaderMalformed", Refused, "AuthorizationHeaderMalformed"),
    ],
)
def test_what_the_store_refuses_is_said_in_our_words(
    proxy: Proxy, objects: ObstoreObjects, status: int, code: str, kind: type[FourfoldError], words: str
) -> None:
    proxy.plan = lambda *_: refusal(status, code)
    for call in (
        lambda: objects.put(KEY, b"data"),
        lambda: objects.get(KEY),
        lambda: list(objects.listing("a")),
        lambda: objects.create(KEY, b"data"),
    ):
        with pytest.raises(kind, match=words) as caught:
            call()
        assert objects.address.bucket in str(caught.value)


@slow
def test_a_bucket_that_is_not_there_is_named(moto: str, aws: pytest.MonkeyPatch) -> None:
    objects = opened(f"s3://no-such-bucket/x?endpoint={moto}")
    for call in (
        lambda: objects.put(KEY, b""),
        lambda: objects.get(KEY),
        lambda: list(objects.listing("")),
        lambda: list(objects.folders("")),
    ):
        with raising(NotFound, naming="no bucket 'no-such-bucket'"):
            call()


@slow
def test_a_machine_without_any_credentials_is_told_what_to_set(
    proxy: Proxy, objects: ObstoreObjects, aws: pytest.MonkeyPatch
) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    proxy.plan = lambda *_: refusal(404, "NotFound")
    aws.setenv("AWS_METADATA_ENDPOINT", proxy.endpoint)
    with raising(Refused, naming="AWS_PROFILE"):
        opened(f"{objects.address}?endpoint={proxy.endpoint}&patience_s=1").get(KEY)


# The probe


def without_conditions(asked: Asked, ask: Ask) -> Answer:
    headers = {name: value for name, value in asked.headers.items() if name != "if-none-match"}
    return ask(Asked(asked.number, asked.method, asked.path, headers, asked.body))


@slow
def test_a_store_that_ignores_conditions_is_refused_for_several_writers(
    proxy: Proxy, objects: ObstoreObjects
) -> None:
    proxy.plan = without_conditions
    for _ in range(2):
        with raising(Refused, naming="writers=one"):
            objects.create(KEY, b"data")
    assert objects.stat(KEY) is None


@slow
def test_such_a_store_serves_one_writer(proxy: Proxy, objects: ObstoreObjects) -> None:
    proxy.plan = without_conditions
    alone = opened(f"{objects.address}?endpoint={proxy.endpoint}&writers=one")
    assert alone.create(KEY, b"data")
    assert alone.create(KEY, b"data")
    assert not alone.create(KEY, b"other")
    assert alone.get(KEY) == b"data"


@slow
def test_a_store_is_asked_once_by_each_process(proxy: Proxy, objects: ObstoreObjects) -> None:
    def probes() -> int:
        return len([path for path in proxy.paths("PUT") if path.endswith("probe")])

    for number in range(3):
        objects.create(Key(str(number)), b"data")
    assert probes() == 2
    another = opened(f"{objects.address}?endpoint={proxy.endpoint}")
    for number in range(3):
        another.create(Key(str(number)), b"data")
    assert probes() == 3


# Addresses and credentials


def used_key(proxy: Proxy, objects: ObstoreObjects) -> str:
    objects.stat(KEY)
    return proxy.asked[-1].headers["authorization"].partition("Credential=")[2].partition("/us")[0]


@slow
def test_credentials_come_from_the_environment_then_from_the_profile(
    proxy: Proxy, objects: ObstoreObjects, aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id = filed\naws_secret_access_key = s%cret\n"
        "[work]\naws_access_key_id = worker\naws_secret_access_key = s\n"
    )
    script = tmp_path / "keys.py"
    script.write_text(f"print({json.dumps(json.dumps({'AccessKeyId': 'asked', 'SecretAccessKey': 's'}))})")
    (folder / "config").write_text(
        f"[default]\nregion = us-west-2\nendpoint_url = {proxy.endpoint}\n"
        f"[profile asking]\nendpoint_url = {proxy.endpoint}\ncredential_process = {sys.executable} {script}\n"
        "[profile single]\nsso_session = company\n"
    )
    address = f"s3://{objects.address.bucket}"
    assert used_key(proxy, opened(address)).startswith("nobody/")
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    aws.delenv("AWS_REGION")
    assert used_key(proxy, opened(address)).startswith("filed/")
    assert "us-west-2" in proxy.asked[-1].headers["authorization"]
    assert opened(address).options["aws_access_key_id"] == "filed"
    aws.setenv("AWS_PROFILE", "work")
    assert used_key(proxy, opened(f"{address}?endpoint={proxy.endpoint}")).startswith("worker/")
    aws.setenv("AWS_PROFILE", "asking")
    assert used_key(proxy, opened(address)).startswith("asked/")
    assert opened(address).options["aws_access_key_id"] == "asked"
    aws.setenv("AWS_PROFILE", "single")
    with raising(Refused, naming="sso_session"):
        opened(address)
    aws.setenv("AWS_PROFILE", "wrk")
    with raising(Refused, naming="did you mean 'work'?"):
        opened(address)


@slow
def test_the_bucket_is_in_the_path_or_in_the_hosts_name(proxy: Proxy, objects: ObstoreObjects) -> None:
    proxy.plan = lambda *_: refusal(404, "NoSuchKey")
    bucket = objects.address.bucket
    opened(f"s3://{bucket}/x?endpoint={proxy.endpoint}").stat(KEY)
    assert proxy.asked[-1].path == f"/{bucket}/x/k"
    opened(f"s3://{bucket}/x?endpoint={proxy.endpoint}&style=virtual").stat(KEY)
    assert proxy.asked[-1].path == "/x/k"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3:///prefix", "names a bucket"),
        ("s3://key:secret@bucket", "never from the address"),
        ("s3://bucket/../other", "'..'"),
        ("s3://bucket?style=paht", "path, virtual"),
        ("s3://bucket?writers=2", "many, one"),
        ("s3://bucket?patience_s=forever", "number of seconds"),
        ("s3://bucket?endpoint=127.0.0.1:9000", "http://"),
        ("gs://bucket?region=x", "options: endpoint"),
        ("ftp://bucket", "accepted: s3://"),
    ],
)
def test_an_address_that_means_nothing_is_refused(address: str, words: str) -> None:
    with raising(Refused, naming=words):
        ObjectAddress.parse(address)


@pytest.mark.parametrize("address", ["gs://bucket/prefix", "az://container/prefix?account=acme"])
def test_the_other_clouds_are_opened_by_their_addresses(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert repr(opened(address)) == f"<ObstoreObjects {address.partition('?')[0]}>"
