"""Who a certificate speaks for: `raven://<cluster>/<role>/<name>`, a role being node, gateway or operator.

The identity stands in the URI subject alternative name and nowhere else; common names are for people.
Imported by the running agent, so it knows no cryptography: the TLS layer hands it what `getpeercert()`
decoded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from raven.errors import PeerError
from raven.names import is_cluster, is_name

SCHEME = "raven://"
_SHOWN_MAX = 120  # characters of a foreign name repeated in an error


class Role(StrEnum):
    """What the holder of a certificate may be."""

    NODE = "node"  # dials gateways, serves streams
    GATEWAY = "gateway"  # is dialled by nodes, opens streams
    OPERATOR = "operator"  # a person or program that asks at the gateway's O&M entry


@dataclass(frozen=True, slots=True)
class Identity:
    """One end of a connection, as its cluster's CA named it."""

    cluster: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.cluster}/{self.role}/{self.name}"

    def __str__(self) -> str:
        return self.uri


def node_identity(cluster: str, name: str) -> Identity:
    assert is_cluster(cluster), cluster
    assert is_name(name), name
    return Identity(cluster, Role.NODE, name)


def gateway_identity(cluster: str, name: str) -> Identity:
    assert is_cluster(cluster), cluster
    assert is_name(name), name
    return Identity(cluster, Role.GATEWAY, name)


def operator_identity(cluster: str, name: str) -> Identity:
    assert is_cluster(cluster), cluster
    assert is_name(name), name
    return Identity(cluster, Role.OPERATOR, name)


def parse_identity_untrusted(uri: str) -> Identity:
    """The identity that `uri` spells; PeerError "bad-identity" for anything but the one spelling there is."""
    if uri.startswith(SCHEME):
        parts = uri.removeprefix(SCHEME).split("/")
        if len(parts) == 3 and is_cluster(parts[0]) and parts[1] in tuple(Role) and is_name(parts[2]):
            return Identity(parts[0], Role(parts[1]), parts[2])
    raise PeerError("bad-identity", f"{uri[:_SHOWN_MAX]!r} is not raven://CLUSTER/node|gateway|operator/NAME")


def identity_among_untrusted(uris: Iterable[str]) -> Identity:
    """The identity of a certificate whose URI alternative names are `uris`.

    Exactly one of them may be a raven:// URI: with two, which one counts would depend on who reads. PeerError
    "bad-identity" otherwise.
    """
    ours = [uri for uri in uris if uri.lower().startswith(SCHEME)]
    if len(ours) != 1:
        raise PeerError(
            "bad-identity", f"the certificate has {len(ours)} raven:// names, expected exactly one"
        )
    return parse_identity_untrusted(ours[0])
