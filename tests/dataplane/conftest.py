"""A fresh network namespace for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.machine import Machine
from tests.net.hosts import host


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with host(tmp_path) as machine:
        yield machine
