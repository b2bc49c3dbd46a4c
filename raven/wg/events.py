"""What a device reports to whoever drives it: values, drained with `Device.events()`, logged above."""

from dataclasses import dataclass

from raven.keys import PublicKey
from raven.wg.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """Both ends hold new keys, and this end knows that the other does."""

    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class HandshakeGaveUp:
    """No answer for 90 s (REKEY_ATTEMPT_TIME); what waited for this peer was dropped."""

    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class PeerRoamed:
    """An authenticated message came from a new place; answers go there from now on."""

    public_key: PublicKey
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class KeysErased:
    """Nothing was heard for so long that all key material of the peer is gone (3 x REJECT_AFTER_TIME)."""

    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class RunsLost:
    """Single datagrams arrive at the peer, and runs do not: the driver had better send one by one."""

    public_key: PublicKey
    endpoint: Endpoint


Event = HandshakeCompleted | HandshakeGaveUp | PeerRoamed | KeysErased | RunsLost
