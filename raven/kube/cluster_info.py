"""The ConfigMap that tells a joining edge which cluster this is, what its CA is, and where its gateways are.

The gateway that leads publishes it, agents read it. Whoever may write it decides whom joining agents believe:
its trust is the API server's. Nothing in it is secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from raven.control.messages import GATEWAYS_MAX
from raven.errors import PeerError
from raven.kube.resources import ConfigMap
from raven.names import is_cluster, is_name

NAMESPACE, NAME = "kube-public", "raven-cluster-info"
_CLUSTER, _CA, _GATEWAYS = "cluster", "ca.crt", "gateways"
_TEXT_MAX = 1 << 16  # characters of one value: GATEWAYS_MAX lines of a name and an address have 17,000


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """What it says."""

    cluster: str
    ca_pem: str
    gateways: tuple[tuple[str, str], ...]  # name and HOST:PORT

    def data(self) -> dict[str, str]:
        """The ConfigMap's data; gateways are lines of NAME HOST:PORT."""
        lines = "".join(f"{name} {address}\n" for name, address in self.gateways)
        return {_CLUSTER: self.cluster, _CA: self.ca_pem, _GATEWAYS: lines}


def read_untrusted(config: ConfigMap) -> ClusterInfo:
    """What a ConfigMap says; PeerError "bad-cluster-info" names the key that cannot be used."""
    data = config.data
    if wrong := [key for key in (_CLUSTER, _CA, _GATEWAYS) if not 0 < len(data.get(key, "")) <= _TEXT_MAX]:
        raise _bad(f"{', '.join(wrong)}: missing, or too long")
    if not is_cluster(data[_CLUSTER]):
        raise _bad(f"{_CLUSTER}: {data[_CLUSTER][:64]!r} is no cluster's name")
    lines = [line.split() for line in data[_GATEWAYS].splitlines() if line.strip()]
    if not 0 < len(lines) <= GATEWAYS_MAX:
        raise _bad(f"{_GATEWAYS}: {len(lines)} lines, expected 1 to {GATEWAYS_MAX}")
    for line in lines:
        if len(line) != 2 or not is_name(line[0]):
            raise _bad(f"{_GATEWAYS}: {' '.join(line)[:64]!r} is not NAME HOST:PORT")
    return ClusterInfo(data[_CLUSTER], data[_CA], tuple((name, address) for name, address in lines))


def _bad(what: str) -> PeerError:
    return PeerError("bad-cluster-info", f"ConfigMap {NAMESPACE}/{NAME}: {what}")
