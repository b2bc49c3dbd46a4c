"""One API server for the whole run; every test begins with an empty cluster and gateways of its own."""

from collections.abc import Iterator

import pytest

from tests.e2e_kube import binaries
from tests.e2e_kube.controllers.objects import SECONDS, KubeGateway, Objects
from tests.lab.waiting import wait_until


@pytest.fixture(scope="session")
def _objects() -> Iterator[Objects]:
    if reason := binaries.missing():
        pytest.skip(reason)
    with Objects() as running:
        yield running


@pytest.fixture
def objects(_objects: Objects) -> Objects:
    """Empty: what an earlier test made is gone, and so are its Events as far as anybody asks."""
    _objects.clear()
    return _objects


@pytest.fixture(scope="session")
def _leader(_objects: Objects) -> Iterator[KubeGateway]:
    gateway = _objects.gateway("gw")
    yield gateway
    gateway.stop()


@pytest.fixture
def leader(objects: Objects, _leader: KubeGateway) -> KubeGateway:
    """The one gateway, which leads."""
    if _leader.process is None or not _leader.process.alive:
        _leader.start()
    wait_until(lambda: objects.holder() == _leader.name, what="the gateway to lead", seconds=SECONDS)
    return _leader
