"""Who a joining edge is to the API server, and what to try when that is not good enough.

A kubeconfig of a kubelet, of kubeadm's bootstrap or of a person, or a bootstrap token: each has its own way
to fail, and each failure names the hop that is broken and the next command.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from raven.errors import ConfigError, PeerError, RavenError, RefusedError
from raven.kube import cluster_info
from raven.kube.access import Access, by_token, read_kubeconfig
from raven.kube.errors import KubeError
from raven.kube.signing import NODE_ANNOTATION, NODE_USER, TOKEN_GROUP, TOKEN_USER, bootstrap_token_id

Hop = Literal["info", "request"]  # reading raven-cluster-info, making and following a certificate request

_GATEWAY_LOG = "kubectl -n raven-system logs daemonset/raven-gateway"
_INFO = f"{cluster_info.NAMESPACE}/{cluster_info.NAME}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What we show to which API server."""

    access: Access
    asker: str  # who that makes us, as far as it can be told without asking
    source: str  # the file it is from, or the URL; for errors

    @property
    def node(self) -> str:
        """The node whose kubelet this is; "" for anybody else."""
        return self.asker.removeprefix(NODE_USER) if self.asker.startswith(NODE_USER) else ""

    @property
    def token_id(self) -> str:
        return self.asker.removeprefix(TOKEN_USER) if self.asker.startswith(TOKEN_USER) else ""


def by_kubeconfig(path: Path) -> Standing:
    """ConfigError for a file that cannot be used."""
    access = read_kubeconfig(path)
    asker = access.user
    if access.certificate:
        asker = _common_name(access.certificate) or asker
    elif access.token is not None and (token_id := bootstrap_token_id(access.token.text())):
        asker = TOKEN_USER + token_id
    return Standing(access, asker, str(path))


def by_bootstrap_token(server: str, ca_pem: str, token: str) -> Standing:
    return Standing(by_token(server, ca_pem, token), TOKEN_USER + bootstrap_token_id(token), server)


def read_api_ca(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--api-ca {path}: not a CA's certificate in PEM: {error}") from error


def check_bootstrap_token(token: str) -> None:
    """ConfigError for what is none; it never repeats the text."""
    if bootstrap_token_id(token):
        return
    if token.startswith("raven1."):
        raise ConfigError("--token: a gateway's join token; with it give --gateway instead of --api-server")
    raise ConfigError("--token: expected a bootstrap token of Kubernetes, as in abcdef.0123456789abcdef")


def explained(error: KubeError, hop: Hop, standing: Standing) -> RavenError:
    """The error for a person at night; to be raised `from error`."""
    match error.reason:
        case "unreachable":
            probe = f"curl -k {standing.access.server}/version"
            return PeerError("unreachable", f"the API server cannot be reached: {error}; try: {probe}")
        case "untrusted":
            return RefusedError(
                "untrusted",
                f"{error}; the CA in use ({standing.source}) is another cluster's, or this machine's clock is"
                " wrong, or somebody in between pretends to be the API server. Nothing was sent; try: date",
            )
        case "unauthorized":
            return RefusedError("unauthorized", _unauthorized(standing))
        case "forbidden" if hop == "info":
            return RefusedError(
                "forbidden",
                f"{standing.asker} may not read ConfigMap {_INFO}, which a Role of Raven's lets nodes and"
                f" bootstrap tokens do; try: kubectl apply -k deploy/kubernetes ({error})",
            )
        case "forbidden":
            return RefusedError(
                "forbidden",
                f"{standing.asker} may not make certificate requests;"
                f" try: kubectl apply -k deploy/kubernetes/bootstrap-tokens ({error})",
            )
        case "not-found" if hop == "info":
            return PeerError(
                "no-cluster-info",
                f"the API server answers, and no gateway has published ConfigMap {_INFO}: none runs there"
                f" with kubernetes.enabled, or none leads; try: {_GATEWAY_LOG}",
            )
    return error


def waited_in_vain(error: PeerError, standing: Standing) -> PeerError:
    """For a request that nobody approved, or nobody signed."""
    if error.reason == "pending" and not standing.node:
        text = f"{error}. An administrator has to approve it, or {_bound(standing)}"
    else:
        text = f"{error}. A gateway that leads does that by itself, so none does; try: {_GATEWAY_LOG}"
    return PeerError(error.reason, f"{text}. Then the same command again goes on with this request")


def denied(error: RefusedError, standing: Standing, node: str) -> RefusedError:
    advice = "The same command again makes a new request"
    if standing.token_id:
        secret = f"-n kube-system secret bootstrap-token-{standing.token_id}"
        advice = f"try: kubectl annotate {secret} {NODE_ANNOTATION}={node}. {advice}"
    elif standing.node and standing.node != node:
        advice = f"try: --node {standing.node}. {advice}"
    return RefusedError(error.reason, f"{error}. {advice}")


def _unauthorized(standing: Standing) -> str:
    if standing.token_id:
        return (
            f"{standing.access.server} does not know bootstrap token {standing.token_id}: it has expired, was"
            " deleted, or is of another cluster; try, where kubectl works: kubeadm token create --ttl 1h"
            f" --groups {TOKEN_GROUP}:raven --usages authentication"
        )
    return (
        f"{standing.access.server} does not accept the credentials in {standing.source}: they have expired,"
        " or are of another cluster; try: systemctl status kubelet"
    )


def _bound(standing: Standing) -> str:
    if not standing.token_id:
        return "a kubelet's kubeconfig or a bootstrap token has to ask"
    return (
        f"the gateway has to be allowed to read the token's Secret:"
        f" kubectl apply -k deploy/kubernetes/bootstrap-tokens, and {_GATEWAY_LOG}"
    )


def _common_name(pem: bytes) -> str:
    """Of a client certificate, which is the user's name to Kubernetes; "" where it cannot be read."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if names else ""
