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
                "step 'fit' of flow 'main' asks for 1.0 TiB memory, but no unit can ever give more",
            ),
            ("cpu=3", "asks for 3 cores, but no unit can ever give more than 2"),
        ):
            module = project.module("greedy", GREEDY.format(asked=asked))
            with pytest.raises(Refused) as refused:
                module.main.run(show=False)
            assert words in str(refused.value)
            assert "nearest unit: local (2 cores, 4.0 GiB)" in str(refused.value)
        assert project.flows.list() == ()
