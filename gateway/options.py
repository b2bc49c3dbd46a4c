"""The options of `raven-gateway run`: the one definition of its flags, its TOML keys and their reference."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from raven.config import (
    LISTEN,
    WG_INTERFACE,
    Address,
    DaemonOptions,
    Lead,
    option,
    parse_cidr,
    parse_dial,
    parse_listen_or_off,
)
from raven.names import CLUSTER_PATTERN, NAME_PATTERN
from raven.net.proxy_header import IPNetwork
from raven.places import GATEWAY_SOCKET


class GatewayOptions(DaemonOptions, frozen=True, kw_only=True):
    agents_listen: Annotated[
        Address,
        option("Where agents dial in: TLS over TCP.", metavar="A:P", expected=LISTEN, parse=Address.parse),
    ] = Address("", 10262)
    agents_proxy_protocol: Annotated[
        tuple[IPNetwork, ...],
        option(
            "Where load balancers dial the agents' listener from that say by PROXY protocol (1 or 2) whom "
            "they speak for; a connection from there without such a header is refused.",
            metavar="CIDR",
            expected="networks, as in 10.0.0.0/24 or fd00::/64",
            parse=ip_network,
        ),
    ] = ()
    oam_listen: Annotated[
        Address,
        option(
            "Where O&M clients come in: an HTTP proxy without TLS. What they may reach says --policy.",
            metavar="A:P",
            expected=LISTEN,
            parse=Address.parse,
        ),
    ] = Address("127.0.0.1", 10264)
    oam_tls_listen: Annotated[
        Address | None,
        option(
            "The same proxy over TLS, where clients may show a certificate, or off.",
            metavar="A:P",
            expected=f"{LISTEN}, or off",
            parse=parse_listen_or_off,
        ),
    ] = None
    oam_tls_certificate: Annotated[
        Path | None,
        option(
            "Certificate of that entry, in PEM with its chain. Without it, the gateway's own, for the hosts "
            "of --advertise and --oam-tls-listen.",
            metavar="FILE",
            expected="a file",
            parse=Path,
        ),
    ] = None
    oam_tls_key: Annotated[
        Path | None,
        option("The key of --oam-tls-certificate.", metavar="FILE", expected="a file", parse=Path),
    ] = None
    oam_client_ca: Annotated[
        Path | None,
        option(
            "CA of the clients' certificates, such as the cluster's own: they are then cert:COMMON-NAME and "
            "group:ORGANIZATION. Without it, Raven's: operators made by `raven-gateway access certificate`.",
            metavar="FILE",
            expected="a file",
            parse=Path,
        ),
    ] = None
    names_listen: Annotated[
        tuple[Lead, ...],
        option(
            "Where clients come in that dial a node's name, which leads here: TLS, spliced by its server "
            "name to the node's kubelet, or to its port behind =.",
            metavar="A:P[=PORT]",
            expected="addresses to listen on, as in 0.0.0.0:10263 or 0.0.0.0:9445=9445",
            parse=Lead.parse,
        ),
    ] = ()
    kubelet_listen: Annotated[
        tuple[Lead, ...],
        option(
            "Where the gateway itself ends TLS in front of the kubelets, so that --policy can tell verbs "
            "apart. Needs the six files below.",
            metavar="A:P[=PORT]",
            expected="addresses to listen on, as in 0.0.0.0:10263",
            parse=Lead.parse,
        ),
    ] = ()
    kubelet_listen_certificate: Annotated[
        Path | None,
        option(
            "Certificate that this entry shows: for the nodes' names, by a CA that the API server believes "
            "kubelets with.",
            metavar="FILE",
            expected="a file",
            parse=Path,
        ),
    ] = None
    kubelet_listen_key: Annotated[
        Path | None,
        option("Its key.", metavar="FILE", expected="a file", parse=Path),
    ] = None
    kubelet_listen_client_ca: Annotated[
        Path | None,
        option(
            "CA of the clients' certificates at this entry; whoever shows none is not let in.",
            metavar="FILE",
            expected="a file",
            parse=Path,
        ),
    ] = None
    kubelet_client_certificate: Annotated[
        Path | None,
        option("What the gateway shows to kubelets there.", metavar="FILE", expected="a file", parse=Path),
    ] = None
    kubelet_client_key: Annotated[
        Path | None,
        option("Its key.", metavar="FILE", expected="a file", parse=Path),
    ] = None
    kubelet_ca: Annotated[
        Path | None,
        option(
            "CA of the kubelets' serving certificates, which are verified always, with the node's name.",
            metavar="FILE",
            expected="a file",
            parse=Path,
        ),
    ] = None
    oam_socket: Annotated[
        Path | None,
        option(
            "The same proxy on a Unix socket, where the kernel says who asks, or off.",
            metavar="PATH",
            expected="a path of at most 107 bytes, or off",
            parse=lambda text: None if text == "off" else Path(text),
        ),
    ] = None
    policy: Annotated[
        Path | None,
        option(
            "Who may reach which target of which node; a change takes effect at once. Without it, the "
            "default, which `raven-gateway policy default` prints.",
            metavar="FILE",
            expected="a file",
            parse=Path,
        ),
    ] = None
    oam_connections_max: Annotated[
        int,
        option(
            "O&M connections there may be at once.",
            metavar="N",
            expected="a number from 1 to 1000000",
            ge=1,
            le=1_000_000,
        ),
    ] = 4096
    oam_each_max: Annotated[
        int,
        option(
            "How many of them, and of requests, one asker may have: one name, or else one /24 or /64.",
            metavar="N",
            expected="a number from 1 to 1000000",
            ge=1,
            le=1_000_000,
        ),
    ] = 1024
    advertise: Annotated[
        Address | None,
        option(
            "Where agents reach this gateway: goes into the join command and to every agent. Without it, the "
            "address of --agents-listen, or this host's name if that listens everywhere.",
            metavar="HOST:P",
            expected="an address that others can dial, as in gateway.example.com:443",
            parse=parse_dial,
        ),
    ] = None
    name: Annotated[
        str,
        option(
            "Name of this gateway in its certificate and in status. Without it, this host's name.",
            metavar="NAME",
            expected="lower-case letters, digits, dots and dashes",
            pattern=rf"^\Z|{NAME_PATTERN}",
        ),
    ] = ""
    cluster: Annotated[
        str,
        option(
            "Name of the cluster in every identity; read once, when the state directory is made. Without "
            "it, a random one.",
            metavar="NAME",
            expected="lower-case letters, digits and dashes",
            pattern=rf"^\Z|{CLUSTER_PATTERN}",
        ),
    ] = ""
    wg_listen: Annotated[
        Address,
        option(
            "UDP port of the packet lane. An address other than * or 0.0.0.0 is what agents are told to "
            "dial; otherwise they dial the host of --advertise.",
            metavar="A:P",
            expected="an address to listen on, as in 0.0.0.0:4500 or *:4500",
            parse=Address.parse,
        ),
    ] = Address("", 4500)
    pod_range: Annotated[
        tuple[str, ...],
        option(
            "A range in which every node may claim pod networks. Others need `raven-gateway node allow`, or "
            "a token with --pod-cidr.",
            metavar="CIDR",
            expected="networks, as in 10.244.0.0/16 or fd00:10::/48",
            parse=parse_cidr,
        ),
    ] = ()
    kubernetes_enabled: Annotated[
        bool,
        option(
            "Follow Gateways and Nodes of a Kubernetes cluster, and stand for election to write their "
            "status. In the file, the keys that begin with kubernetes_ may stand in a table [kubernetes].",
            expected="true or false",
        ),
    ] = False
    kubernetes_kubeconfig: Annotated[
        str,
        option(
            "How to reach the API server. Without it, as a pod does, else by $KUBECONFIG or ~/.kube/config.",
            metavar="FILE",
            expected="the path of a kubeconfig",
        ),
    ] = ""
    kubernetes_service: Annotated[
        str,
        option(
            "Service in this gateway's namespace whose endpoints are the gateways' pods; a gateway whose pod "
            "is not ready there is left out at once.",
            metavar="NAME",
            expected="the name of a Service",
        ),
    ] = "raven-gateway"
    kubernetes_registry: Annotated[
        Literal["auto", "cluster", "local"],
        option(
            "Where the CA, nodes and tokens are: cluster for objects in this gateway's namespace, which all "
            "gateways there share, local for --state-dir alone. auto is cluster in a pod with "
            "--kubernetes-enabled, local elsewhere.",
            metavar="WHERE",
            expected="auto, cluster or local",
        ),
    ] = "auto"
    devices: Annotated[
        int,
        option(
            "WireGuard devices that share the nodes, each a process, so a core, of its own: on the port of "
            "--wg-listen and those after it but 4501, which a firewall has to let in as well.",
            metavar="N",
            expected="a number from 1 to 16",
            ge=1,
            le=16,
        ),
    ] = 1
    # Another name than the agent's: a gateway's host may be a node as well.
    wg_interface: Annotated[str, WG_INTERFACE] = "raven-gw"
    socket: Annotated[
        Path,
        option(
            "Unix socket for ravenctl.", metavar="PATH", expected="a path of at most 107 bytes", parse=Path
        ),
    ] = GATEWAY_SOCKET
    drain_grace_seconds: Annotated[
        float,
        option(
            "How long everything is still served after SIGTERM while /healthz says 503, so that load "
            "balancers send new requests elsewhere before the drain begins.",
            metavar="SECONDS",
            expected="a number of seconds from 0 to 600",
            ge=0,
            le=600,
        ),
    ] = 0.0
    metrics_listen: Annotated[
        Address | None,
        option(
            "Where Prometheus scrapes the gateway itself, or off.",
            metavar="A:P",
            expected=f"{LISTEN}, or off",
            parse=parse_listen_or_off,
        ),
    ] = Address("127.0.0.1", 10266)
