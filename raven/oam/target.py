"""From a request's target to the node, host and port it asks for.

A target is `NODE:PORT`, in the request's target or its Host header, or `HOST:PORT` behind a node that the
header Raven-Node, the query's `nodeName` or the authority `HOST.via.NODE:PORT` names. Nothing here knows who
is connected; the caller says which names are nodes.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import unquote

from raven.oam.refusal import Refusal

VIA: Final = ".via."
_AUTHORITY = re.compile(
    r"(?:\[([0-9a-fA-F:.]+(?:%[0-9a-zA-Z._-]+)?)\]|([0-9a-zA-Z._-]{1,253}))(?::([0-9]*))?"
)
_ABSOLUTE = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://([^/?#]*)([^#]*)")
_HTTP_PORT = 80


@dataclass(frozen=True, slots=True)
class Target:
    """Where a stream shall end: `host` as the node sees it, "" for the node itself."""

    node: str
    host: str
    port: int

    def __str__(self) -> str:
        if not self.host:
            return f"{self.node}:{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} behind {self.node}"


@dataclass(frozen=True, slots=True)
class Route:
    """What to do with a request: where it goes, and how it reads there."""

    target: Target
    path: str = ""  # origin-form of the request target; "" for CONNECT, which forwards no request
    authority: str = ""  # value of the Host header at the target


def find_route(
    method: str,
    request_target: str,
    raven_node: Sequence[str],
    is_node: Callable[[str], bool],
    *,
    host: str = "",
) -> Route | None:
    """The route of a request, None for the gateway's own pages.

    `raven_node` are the values of the header of that name. Raises Refusal "bad-target". An authority that is
    a node's own name is overridden by another node that the header or the query names, port kept; any other
    host stands behind that node. The query is looked at, and changed, only when nothing else names a node.
    Origin-form is for a node where `host`, the header, is a node's name: its name has led the asker here.
    """
    if method == "CONNECT":
        host, port = _parse_authority(request_target, None)
        return Route(_find_target(host, port, _one(raven_node, "header Raven-Node"), is_node))
    if request_target.startswith("/"):
        named = _AUTHORITY.fullmatch(host)
        if named is None or not is_node((named[2] or "").lower().removesuffix(".")):
            return None
        request_target = f"http://{host}{request_target}"
    match = _ABSOLUTE.fullmatch(request_target)
    if match is None:
        raise Refusal(
            "bad-target", "expected CONNECT HOST:PORT, an absolute http:// URL, or a path of this gateway"
        )
    scheme, authority, rest = match.groups()
    if scheme.lower() != "http":
        raise Refusal(
            "bad-target", f"the scheme {scheme}:// is not forwarded as a URL; ask with CONNECT instead"
        )
    host, port = _parse_authority(authority, _HTTP_PORT)
    path, question, query = rest.partition("?")
    node = _one(raven_node, "header Raven-Node")
    via = not node and VIA in host and not is_node(host)
    if not node and not via:
        query, names = _take_node_name(query)
        node = _one(names, "query parameter nodeName")
    target = _find_target(host, port, node, is_node)
    if not path:
        # RFC 9112 section 3.2.4: the asterisk-form of OPTIONS is an absolute URL without path to a proxy.
        path = "*" if method == "OPTIONS" and not query else "/"
    if via:
        name = target.host or target.node  # what stood before .via.
        authority = f"{name}:{port}" if ":" in authority else name
    return Route(target, path + (question + query if query else ""), authority)


def at_address(target: Target, nodes_at: Callable[[str], Sequence[str]]) -> Target:
    """The target, by the name of its node where it was asked for by the node's address.

    kube-apiserver's egress selector dials what a Node says of itself, mostly its InternalIP. `nodes_at` tells
    which nodes have an address; Refusal "ambiguous-node" when there are two, for one of them would be wrong.
    """
    address = known_address_untrusted(target.node)
    names = nodes_at(address) if address else ()
    if len(names) > 1:
        raise Refusal(
            "ambiguous-node",
            f"{len(names)} nodes have the address {address}, so it does not say which one; ask by the node's "
            "name (kube-apiserver: --kubelet-preferred-address-types=Hostname)",
        )
    return replace(target, node=names[0]) if names else target


def known_address_untrusted(text: str) -> str:
    """`text` as the one spelling of an address that can stand for a node; "" for anything else.

    Loopback and the like mean another machine to everybody, so they stand for none.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    useless = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
    return "" if useless else str(address)


def host_of_authority(authority: str) -> str:
    """The host in `HOST` or `HOST:PORT`, as targets spell it; Refusal "bad-target"."""
    return _parse_authority(authority, _HTTP_PORT)[0]


def _parse_authority(authority: str, default_port: int | None) -> tuple[str, int]:
    """Host (lower case, no brackets, no final dot) and port; Refusal otherwise."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        # Also for user:password@, which must not reach a log.
        raise Refusal(
            "bad-target", "the request's target has no host of letters, digits, dots and dashes, or [IPv6]"
        )
    bracketed, plain, digits = match.groups()
    if digits:
        port = int(digits) if len(digits) <= 5 else 0
    elif default_port is not None:
        port = default_port
    else:
        raise Refusal("bad-target", "CONNECT needs HOST:PORT; the port is missing")
    if not 1 <= port <= 65535:
        raise Refusal("bad-target", "the port is not in 1 to 65535")
    return (bracketed or plain).lower().removesuffix("."), port


def _find_target(host: str, port: int, node: str, is_node: Callable[[str], bool]) -> Target:
    if not node and VIA in host and not is_node(host):
        host, _, node = host.rpartition(VIA)
        if not host or not node:
            raise Refusal("bad-target", "expected HOST.via.NODE:PORT")
    elif not node:
        return Target(host, "", port)
    if host in ("node", node) or is_node(host):
        host = ""
    return Target(node, host, port)


def _one(values: Sequence[str], what: str) -> str:
    """The single value, "" for none; a target is never guessed from two."""
    if len({value.lower() for value in values}) > 1:
        raise Refusal("bad-target", f"the {what} names two nodes; expected one")
    if not values:
        return ""
    node = values[0].lower().removesuffix(".")
    if not re.fullmatch(r"[0-9a-z._-]{1,253}", node):
        raise Refusal("bad-target", f"the {what} does not hold the name of a node")
    return node


def _take_node_name(query: str) -> tuple[str, list[str]]:
    """The query without its `nodeName` parameters, every other byte kept, and their values."""
    kept: list[str] = []
    names: list[str] = []
    for parameter in query.split("&"):
        key, _, value = parameter.partition("=")
        if unquote(key) == "nodeName":
            names.append(unquote(value))
        else:
            kept.append(parameter)
    return "&".join(kept), names
