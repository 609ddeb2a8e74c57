"""What the tests of whole runs in this folder share."""

import pytest
from tiny_run import on_one_device


@pytest.fixture
def one_device():
    """The runs of a test use one device."""
    with on_one_device():
        yield
