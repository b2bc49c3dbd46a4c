"""How the UAPI spells keys, numbers, networks and endpoints. Everything here reads untrusted text.

A value that cannot be read is UapiError(EINVAL), a line that is no `key=value` UapiError(EPROTO).
"""

import errno
import ipaddress
from collections.abc import Callable
from typing import TypeVar

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import IPNetwork, UapiError
from raven.wg.endpoint import Endpoint

_K = TypeVar("_K", PublicKey, PrivateKey, PresharedKey)

ScopeOf = Callable[[str], int]  # the index of an interface by its name, 0 when there is none


def no_names(name: str) -> int:
    """For whoever reads endpoints of another host, or numbers alone."""
    return 0


def read_line(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals:
        raise UapiError(errno.EPROTO, f"{line[:40]!r}: expected key=value")
    return key, value


def read_key(kind: type[_K], key: str, value: str) -> _K:
    # bytes.fromhex() also takes blanks; the length keeps them out. Secrets stay out of messages.
    if len(value) != 64:
        raise UapiError(errno.EINVAL, f"{key}: expected 64 hexadecimal digits")
    try:
        return kind.from_hex(value)
    except ValueError as error:
        raise UapiError(errno.EINVAL, f"{key}: expected 64 hexadecimal digits") from error


def read_number(key: str, value: str, highest: int) -> int:
    # isdecimal() and isascii() because int() also takes signs, blanks, underscores and other scripts' digits.
    number = int(value) if value.isascii() and value.isdecimal() and len(value) <= 20 else -1
    if not 0 <= number <= highest:
        raise UapiError(errno.EINVAL, f"{key}={value[:40]!r}: expected 0 to {highest}")
    return number


def read_signed(key: str, value: str) -> int:
    return (
        -read_number(key, value[1:], 1 << 31) if value.startswith("-") else read_number(key, value, 1 << 31)
    )


def read_true(key: str, value: str) -> bool:
    if value != "true":
        raise UapiError(errno.EINVAL, f"{key}={value[:40]!r}: expected true")
    return True


def read_bool(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise UapiError(errno.EINVAL, f"{key}={value[:40]!r}: expected true or false")
    return value == "true"


def read_network(key: str, value: str) -> IPNetwork:
    """`10.0.0.0/8`, with host bits cleared as the kernel does."""
    # ipaddress also takes netmasks, zones and bare addresses, which no WireGuard does.
    prefix = value.partition("/")[2]
    try:
        if not prefix.isdecimal() or "%" in value:
            raise ValueError("no prefix, or a zone")
        return ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise UapiError(errno.EINVAL, f"{key}={value[:60]!r}: expected ADDRESS/PREFIX") from error


def read_endpoint(key: str, value: str, scope_of: ScopeOf = no_names) -> Endpoint:
    """`1.2.3.4:5` or `[v6%scope]:5`, the scope an interface's name or number. A device resolves no names."""
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host, percent, zone = host[1:-1].partition("%") if bracketed else (host, "", "")
    try:
        address = ipaddress.IPv6Address(host) if bracketed else ipaddress.IPv4Address(host)
    except ValueError as error:
        raise UapiError(errno.EINVAL, f"{key}={value[:80]!r}: expected IPV4:PORT or [IPV6]:PORT") from error
    # A name first, as getaddrinfo(3) and wireguard-go: `wg` writes names, and one may be of digits.
    scope = (scope_of(zone) or read_number(key, zone, 0xFFFFFFFF)) if percent else 0
    return Endpoint(str(address), read_number(key, port, 65535), scope)
