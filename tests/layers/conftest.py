"""What only these tests need."""

import time
from collections.abc import Iterator

import pytest


@pytest.fixture
def west() -> Iterator[None]:
    """A machine whose own time is not UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()
