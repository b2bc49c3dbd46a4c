"""The options of `raven-agent run`: the one definition of its flags, its TOML keys and their reference."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from raven.config import LISTEN, Address, DaemonOptions, option, parse_dial, parse_listen_or_off
from raven.net.proxy import EXPECTED, Off, Proxy, parse_proxy
from raven.oam.policy import DEFAULT_ALLOW, Rule
from raven.places import AGENT_SOCKET


class AgentOptions(DaemonOptions, frozen=True, kw_only=True):
    gateway: Annotated[
        tuple[Address, ...],
        option(
            "A gateway to keep a tunnel to, beside those that the gateways tell of.",
            metavar="HOST:P",
            expected="addresses to dial, as in gateway.example.com:443",
            parse=parse_dial,
        ),
    ] = ()
    proxy: Annotated[
        Proxy | Off | None,
        option(
            "HTTP proxy through which gateways are dialled, with a user and a password where it wants them; "
            "off dials straight. Without it HTTPS_PROXY counts. NO_PROXY makes exemptions of both.",
            metavar="URL",
            expected=EXPECTED,
            parse=parse_proxy,
            secret=True,
        ),
    ] = None
    allow: Annotated[
        tuple[Rule, ...],
        option(
            "A target that streams may reach: HOST is node (this machine), an address, a network, a name or "
            "*; PORT is a number, a range or *. Giving any replaces the defaults.",
            metavar="HOST:PORT",
            expected="rules, as in node:10250, 192.168.1.0/24:502 or printer.lan:9100-9110",
            parse=Rule.parse,
        ),
    ] = tuple(map(Rule.parse, DEFAULT_ALLOW))
    node_address: Annotated[
        str,
        option(
            "This machine's own address, its InternalIP in Kubernetes: streams to the node try it after "
            "loopback, the rule node:PORT covers it, and the gateway finds the node by it.",
            metavar="ADDRESS",
            expected="an IPv4 or IPv6 address",
            parse=lambda text: str(ip_address(text)),
        ),
    ] = "127.0.0.1"
    wg_port: Annotated[
        int,
        option(
            "UDP port of the packet lane; 0 lets the kernel choose, which suits a node behind NAT.",
            metavar="PORT",
            expected="a port from 0 to 65535",
            ge=0,
            le=65535,
        ),
    ] = 0
    socket: Annotated[
        Path,
        option(
            "Unix socket for ravenctl.", metavar="PATH", expected="a path of at most 107 bytes", parse=Path
        ),
    ] = AGENT_SOCKET
    metrics_listen: Annotated[
        Address | None,
        option(
            "Where Prometheus scrapes the agent itself, or off.",
            metavar="A:P",
            expected=f"{LISTEN}, or off",
            parse=parse_listen_or_off,
        ),
    ] = Address("127.0.0.1", 10267)
