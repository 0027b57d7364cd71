"""A host in the field, whose processes end with the test."""

from collections.abc import Iterator

import pytest
from conftest import Parties

from licences.field import Field


@pytest.fixture
def field(parties: Parties) -> Iterator[Field]:
    host = Field(parties)
    yield host
    for process in host.running:
        process.kill()
        process.communicate()
