"""What no unit can ever give is refused at submission, by the whole of the house."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.flows.conftest import opened

from fourfold.core.errors import Refused

GREEDY = """
@ff.step({asked})
def fit() -> int:
    return 1

@ff.flow
def main() -> int:
    return fit().result()
"""


def test_a_step_that_asks_for_more_than_any_unit_has_is_refused_before_its_flow_starts(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as project:
        for asked, words in (
            (
                'memory="1TiB"',
                "asks for 1 cpu, 1.0 TiB but no unit can ever give it: local has 2 cpu, 4.0 GiB",
            ),
            ("cpu=3", "asks for 3 cpu but no unit can ever give it: local has 2 cpu, 4.0 GiB"),
        ):
            module = project.module("greedy", GREEDY.format(asked=asked))
            with pytest.raises(Refused) as refused:
                module.main.run(show=False)
            assert words in str(refused.value)
            assert "lower what step 'fit' asks for" in str(refused.value)
        assert project.flows.list() == ()
