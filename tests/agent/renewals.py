"""What a test of renewal waits for: another certificate on disk, words in an agent's status."""

from raven.pki.certificate import Leaf, load_leaf
from tests.daemons import Daemon, Loopback, until


def leaf_of(net: Loopback, directory: str = "shop-1") -> Leaf:
    return load_leaf((net.directory / directory / "node.crt").read_bytes())


async def renewed(net: Loopback, old: Leaf, directory: str = "shop-1") -> Leaf:
    async def read() -> Leaf:
        return leaf_of(net, directory)

    return await until(read, lambda leaf: leaf.serial != old.serial, "another certificate")


async def down(agent: Daemon, words: str) -> str:
    snapshot = await until(
        agent.agent_snapshot, lambda now: words in now.uplinks[0].lane.detail, f"{words!r} in the status"
    )
    return snapshot.uplinks[0].lane.detail
