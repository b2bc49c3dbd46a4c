"""The peers of a device and whose addresses are whose.

`device` asks it for the owner of an address, burst by burst, and hands it the peers' part of a configuration.
"""

import errno
from collections.abc import Iterator

from raven.keys import PublicKey
from raven.wg.allowed_ips import AllowedIPs
from raven.wg.configuration import (
    NO_SUPERFRAMES,
    DeviceChange,
    PeerChange,
    PeerState,
    PeerStatus,
    SuperframeCipher,
    UapiError,
)
from raven.wg.peer import Peer
from raven.wg.shared import Shared

PEERS_MAX = 1 << 16  # wireguard-go's; at 20 kB each they are more than a machine has
_OWNERS_MAX = 4096  # addresses whose owner is remembered; a scan of a large network starts over

Address = int | tuple[int, int]  # IPv4, or the two halves of IPv6


class Peers:
    """All peers of one device, by public key, in the order they were added."""

    __slots__ = ("_allowed_ips", "_owners", "_peers", "_shared", "_superframes")

    def __init__(self, shared: Shared[Peer]) -> None:
        self._shared = shared
        self._peers: dict[PublicKey, Peer] = {}
        self._allowed_ips: AllowedIPs[Peer] = AllowedIPs()
        self._owners: dict[Address, Peer | None] = {}
        self._superframes = 0

    @property
    def superframes(self) -> bool:
        """Whether any peer is to get superframes."""
        return self._superframes > 0

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def get(self, public_key: PublicKey) -> Peer | None:
        return self._peers.get(public_key)

    def owner_of(self, address: Address) -> Peer | None:
        """Whose allowed IPs hold `address`; remembered, because packets come in flows."""
        try:
            return self._owners[address]
        except KeyError:
            pass
        if isinstance(address, int):
            owner = self._allowed_ips.lookup_v4(address)
        else:
            owner = self._allowed_ips.lookup_v6(address[0] << 64 | address[1])
        if len(self._owners) >= _OWNERS_MAX:
            self._owners.clear()
        self._owners[address] = owner
        return owner

    def check(self, change: DeviceChange) -> None:
        """UapiError if `apply` could not do all of it."""
        before = set() if change.replace_peers else set(self._peers)
        after = before | {peer.public_key for peer in change.peers if not peer.remove}
        if len(after) > PEERS_MAX:
            raise UapiError(errno.ENOMEM, f"{len(after)} peers: a device has at most {PEERS_MAX}")

    def apply(self, change: DeviceChange, now: float) -> None:
        """The part of `change` that is about peers."""
        self._owners.clear()
        if change.replace_peers:
            for public_key in list(self._peers):
                self.remove(public_key)
        for peer_change in change.peers:
            self._configure(peer_change, now)
        self._superframes = sum(peer.superframes.cipher is not None for peer in self)

    def _configure(self, change: PeerChange, now: float) -> None:
        identity = self._shared.identity
        if identity is not None and change.public_key == identity.dh.public:
            return  # ourselves: ignored, so that one list of peers can be given to all of them
        if change.remove:
            self.remove(change.public_key)
            return
        peer = self._peers.get(change.public_key)
        if peer is None:
            if change.update_only:
                return
            peer = self._peers[change.public_key] = Peer(change.public_key, self._shared)
        if change.preshared_key is not None:
            peer.preshared_key = change.preshared_key
        was_kept_alive = peer.endpoint is not None and peer.keepalive > 0
        if change.endpoint is not None:
            peer.move_to(change.endpoint)
        if change.probes is not None:
            peer.configure_probes(change.probes)
        if change.keepalive is not None:
            peer.configure_keepalive(change.keepalive)
        if change.superframes is not None:
            off = change.superframes == NO_SUPERFRAMES
            peer.superframes.configure(None if off else SuperframeCipher(change.superframes))
        if change.replace_allowed_ips:
            self._allowed_ips.remove_all(peer)
        for network in change.removed_allowed_ips:
            self._allowed_ips.remove(network, peer)
        for network in change.allowed_ips:
            self._allowed_ips.add(network, peer)
        if change.rekey:
            peer.rekey(now)
        if peer.keepalive and not was_kept_alive:
            peer.send_keepalive(now)  # a persistent keepalive starts with the first, as in the kernel

    def remove(self, public_key: PublicKey) -> None:
        """Removes a peer, if there is one, with its networks and keys."""
        self._owners.clear()
        peer = self._peers.pop(public_key, None)
        if peer is not None:
            self._allowed_ips.remove_all(peer)
            peer.remove()

    def states(self) -> list[PeerState]:
        return [
            PeerState(
                public_key=peer.public_key,
                preshared_key=peer.preshared_key,
                endpoint=peer.endpoint,
                last_handshake=peer.last_handshake,
                rx_bytes=peer.rx_bytes,
                tx_bytes=peer.tx_bytes,
                keepalive=peer.keepalive,
                allowed_ips=list(self._allowed_ips.of(peer)),
            )
            for peer in self
        ]

    def statuses(self) -> dict[PublicKey, PeerStatus]:
        return {
            peer.public_key: PeerStatus(
                mtu=peer.mtu,
                proven_mtu=peer.path.proven,
                probes=peer.path.cooperative,
                superframes=peer.superframes.cipher or NO_SUPERFRAMES,
                tx_superframes=peer.superframes.tx,
                rx_superframes=peer.superframes.rx,
            )
            for peer in self
        }
