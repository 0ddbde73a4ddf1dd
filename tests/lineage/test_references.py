"""What `fourfold lineage` takes a reference for: every form in which a thing may be named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.cli.lineage import Named, parse
from fourfold.core.context import Ref
from fourfold.core.errors import Refused
from fourfold.core.times import parse_instant

NOON = parse_instant("2013-06-01T12:00:00Z")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("table:flights", Named("table", "flights")),
        ("table:flights#delay", Named("table", "flights", column="delay")),
        ("table:flights@3", Named("table", "flights", "3")),
        ("table:flights@v3", Named("table", "flights", "3")),
        ("table:flights@main@3", Named("table", "flights", "3")),
        ("table:flights@tag:report", Named("table", "flights", tag="report")),
        ("table:flights@tag:a@3", Named("table", "flights", tag="a@3")),
        ("table:flights@2013-06-01T12:00:00Z", Named("table", "flights", at=NOON)),
        ("table:raw.flights@dev/x", Named("table", "raw.flights@dev/x")),
        ("table:flights@dev", Named("table", "flights@dev")),
        ("table:flights@dev/x#dep @ delay", Named("table", "flights@dev/x", column="dep @ delay")),
        ("table:flights@dev/x@3#delay", Named("table", "flights@dev/x", "3", "delay")),
        ("table:flights@dev/x@v3", Named("table", "flights@dev/x", "3")),
        ("table:flights@dev/x@tag:report", Named("table", "flights@dev/x", tag="report")),
        ("table:flights@dev/x@2013-06-01T12:00:00Z", Named("table", "flights@dev/x", at=NOON)),
        ("table:flights@7@3", Named("table", "flights@7", "3")),
        ("model:delays", Named("model", "delays")),
        ("model:delays/2", Named("model", "delays", "2")),
        ("model:delays@champion", Named("model", "delays", "champion")),
        ("files:images@4", Named("files", "images", "4")),
        ("dataset:training@1", Named("dataset", "training", "1")),
        ("insert:flights@dev/x@17", Named("insert", "flights@dev/x", "17")),
        ("training_set:0f3a", Named("training_set", "0f3a")),
        ("training_set:0f3a#delay@1h", Named("training_set", "0f3a", column="delay@1h")),
        ("labels:0f3a#late", Named("labels", "0f3a", column="late")),
        ("feature_service:delays@c0ffee", Named("feature_service", "delays", "c0ffee")),
        ("step:run_1/build#0@2", Named("step", "run_1/build#0", "2")),
        ("run:run_1", Named("run", "run_1")),
        ("blob:b3:aa", Named("blob", "b3:aa")),
    ],
)
def test_a_reference_names_what_it_says(text: str, named: Named) -> None:
    assert parse(text) == named


@pytest.mark.parametrize("text", ["flights", "table:", ":flights", ""])
def test_what_names_no_thing_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Refused, match="names no thing") as refused:
        parse(text)
    assert "table:flights@3" in str(refused.value)


@pytest.mark.parametrize("text", ["table:../x", "table:flights@", "table:flights@dev/../x", "table:a@b@c"])
def test_what_names_no_table_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse(text)


@given(
    st.sampled_from(["flights", "raw.flights", "f-1"]),
    st.sampled_from(["", "@dev", "@dev/try-1", "@7", "@a/b/c/d"]),
    st.integers(0, 10**6),
)
def test_what_lineage_prints_of_a_table_can_be_given_back_to_it(
    table: str, branch: str, version: int
) -> None:
    ref = Ref("table", table + branch, str(version))
    assert parse(str(ref)) == Named(ref.kind, ref.name, ref.version)
