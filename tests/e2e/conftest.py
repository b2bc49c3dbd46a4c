"""The lab of the scenarios: one for the module, with gateway and both agents connected."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import programs, raven
from tests.lab.raven import Agent, Gateway
from tests.lab.world import Site, World

BIG = 32 << 20  # bytes of the file at each site; longer than any window, quick to send


@dataclasses.dataclass(frozen=True, slots=True)
class Lab:
    """Everything that runs; scenarios leave it as they found it."""

    world: World
    gateway: Gateway
    agents: dict[str, Agent]  # by the site's letter
    digest: str  # SHA-256 of the file /big at port 8080 of each site

    @property
    def a(self) -> Site:
        return self.world.sites["a"]

    @property
    def b(self) -> Site:
        return self.world.sites["b"]

    def download(self, site: Site, *options: str) -> str:
        """SHA-256 of /big as it arrives through the gateway."""
        target = self.arriving(site)
        url = f"http://{site.name}:8080/big"
        answer = self.gateway.curl(url, "-f", "-o", str(target), *options, seconds=30)
        assert answer.code == 0, answer.err
        return hashlib.sha256(target.read_bytes()).hexdigest()

    def arriving(self, site: Site) -> Path:
        """The file that `download` writes."""
        return self.world.directory / f"got-{site.name}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with World() as world:
        digest = serve_files(world)
        for site in world.sites.values():
            programs.node_exporter(site.machine)
            programs.iperf_server(site.pod)
        gateway, agents = raven.up(world)
        yield Lab(world, gateway, agents, digest)


def serve_files(world: World) -> str:
    """nginx with /big and /name at every site; the digest of /big."""
    content = bytes(range(256)) * (BIG // 256)
    for site in world.sites.values():
        root = world.directory / f"www-{site.name}"
        root.mkdir()
        Path(root, "big").write_bytes(content)
        Path(root, "name").write_text(site.name)
        programs.nginx(site.machine, root)
    return hashlib.sha256(content).hexdigest()
