"""The peers of a device and whose addresses are whose.

`device` asks it for the owner of an address, burst by burst, and hands it the peers' part of a configuration.
"""

import errno
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

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

_STEP = 1000  # networks that are moved in one step: 2 ms, and 10 where a table has to grow

Address = int | tuple[int, int]  # IPv4, or the two halves of IPv6


class Prepared(NamedTuple):
    """A change that can be applied at once: what is left of it to do, and whose addresses are whose then."""

    changes: Sequence[PeerChange]
    allowed_ips: AllowedIPs[PublicKey]
    replace: bool  # all peers go first


class Peers:
    """All peers of one device, by public key, in the order they were added."""

    __slots__ = ("_allowed_ips", "_owners", "_peers", "_shared", "_superframes")

    def __init__(self, shared: Shared[Peer]) -> None:
        self._shared = shared
        self._peers: dict[PublicKey, Peer] = {}
        self._allowed_ips: AllowedIPs[PublicKey] = AllowedIPs()
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
            key = self._allowed_ips.lookup_v4(address)
        else:
            key = self._allowed_ips.lookup_v6(address[0] << 64 | address[1])
        owner = None if key is None else self._peers[key]
        if len(self._owners) >= _OWNERS_MAX:
            self._owners.clear()
        self._owners[address] = owner
        return owner

    def preparing(self, change: DeviceChange, own: PublicKey | None) -> Generator[None, None, Prepared]:
        """What `apply` needs, in steps of some milliseconds, the device as it was; UapiError if it cannot be.

        `own` is the device's public key once `change` is applied. Nothing else may change peers meanwhile.
        """
        before = set() if change.replace_peers else set(self._peers)
        after = before | {peer.public_key for peer in change.peers if not peer.remove}
        if len(after) > PEERS_MAX:
            raise UapiError(errno.ENOMEM, f"{len(after)} peers: a device has at most {PEERS_MAX}")
        allowed_ips: AllowedIPs[PublicKey] = (
            AllowedIPs() if change.replace_peers else self._allowed_ips.copy()
        )
        if own is not None:
            allowed_ips.remove_all(own)
        changes: list[PeerChange] = []
        done = 0
        for peer in change.peers:
            key = peer.public_key
            # Ourselves: ignored, so that one list of peers can be given to all of them.
            if key == own or (peer.update_only and not peer.remove and key not in before):
                continue
            changes.append(peer)
            everything = peer.remove or peer.replace_allowed_ips
            leaving = list(allowed_ips.of(key)) if everything else peer.removed_allowed_ips
            coming = () if peer.remove else peer.allowed_ips
            for move, networks in ((allowed_ips.remove, leaving), (allowed_ips.add, coming)):
                for network in networks:
                    move(network, key)
                    done += 1
                    if done % _STEP == 0:
                        yield
            if peer.remove:
                before.discard(key)
                allowed_ips.remove_all(key)
            else:
                before.add(key)
        return Prepared(changes, allowed_ips, replace=change.replace_peers)

    def apply(self, prepared: Prepared, now: float) -> None:
        """Makes the table and the peers what `preparing` found, whole."""
        self._owners.clear()
        if prepared.replace:
            for public_key in list(self._peers):
                self._forget(public_key)
        self._allowed_ips = prepared.allowed_ips
        for peer_change in prepared.changes:
            self._configure(peer_change, now)
        self._superframes = sum(peer.superframes.cipher is not None for peer in self)

    def _configure(self, change: PeerChange, now: float) -> None:
        if change.remove:
            self._forget(change.public_key)
            return
        peer = self._peers.get(change.public_key)
        if peer is None:
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
        if change.rekey:
            peer.rekey(now)
        if peer.keepalive and not was_kept_alive:
            peer.send_keepalive(now)  # a persistent keepalive starts with the first, as in the kernel

    def remove(self, public_key: PublicKey) -> None:
        """Removes a peer, if there is one, with its networks and keys."""
        self._owners.clear()
        self._allowed_ips.remove_all(public_key)
        self._forget(public_key)

    def _forget(self, public_key: PublicKey) -> None:
        peer = self._peers.pop(public_key, None)
        if peer is not None:
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
                allowed_ips=list(self._allowed_ips.of(peer.public_key)),
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
