"""Two devices that know of each other's superframes, and the fragments that the net between them saw."""

from raven.wg.configuration import PeerChange, SuperframeCipher
from raven.wg.device import Transmit
from tests.wg.packets import packet
from tests.wg.pair import A4, B4, Host, Net, pair
from tests.wg.superpackets import superpacket

AES, CHACHA = SuperframeCipher.AES256GCM, SuperframeCipher.CHACHA20POLY1305


def switch(host: Host, other: Host, superframes: str) -> None:
    host.configure(PeerChange(public_key=other.public_key, update_only=True, superframes=superframes))


def told(seed: int = 0, *, cipher: SuperframeCipher = AES, mtu: int = 1420) -> tuple[Net, Host, Host]:
    """A pair that knows of each other's superframes and has keys."""
    net, a, b = pair(seed, mtu=mtu)
    switch(a, b, cipher)
    switch(b, a, cipher)
    a.send([packet(A4, B4)])
    net.run(1)
    a.packets.clear()
    b.packets.clear()
    net.sent.clear()
    return net, a, b


def fragments(net: Net) -> list[bytes]:
    return [data for _, _, _, data in net.sent if data[0] == 0x52]


def cut(transmit: Transmit) -> list[bytes]:
    step = transmit.segment_size
    return [bytes(transmit.data[at : at + step]) for at in range(0, len(transmit.data), step)]


def catch(net: Net, a: Host, fill: int = 0) -> list[bytes]:
    """The fragments of a frame that the network kept for itself."""
    net.tap = lambda *_: False
    already = len(fragments(net))
    assert a.send_superpacket(superpacket(fill))
    net.tap = None
    return fragments(net)[already:]
