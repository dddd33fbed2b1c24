"""A minute of the soak; `python -m tests.soak --minutes N` does as many as one likes."""

import pytest

from tests import soak


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_minute_under_fire_loses_nothing():
    assert soak.main(["--minutes", "1", "--seeds", "1"]) == 0
