"""Which HTTP proxy stands between this host and a gateway: by option, or by environment as curl has it.

Decides only; `raven.net.dial` opens the connection. A proxy's password is kept as the header that it becomes,
and shows in no repr and no error.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from raven.errors import ConfigError

URL_MAX: Final = 2000  # characters; a host, a user and a password, several times over
Off = Literal["off"]  # no proxy, whatever the environment says
EXPECTED: Final = "http://HOST:PORT, http://USER:PASSWORD@HOST:PORT, or off"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that takes CONNECT."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)  # value of Proxy-Authorization; "" sends none

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """The proxy at `http://[USER[:PASSWORD]@]HOST[:PORT]`; ValueError, which never repeats the text."""
        from urllib.parse import unquote, urlsplit  # nobody but who has a proxy needs it

        if len(text) > URL_MAX or not text.isprintable():
            raise ValueError("it is no URL")
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("its host or port cannot be read") from None
        if parts.scheme != "http":
            raise ValueError(f"a proxy is spoken to as http://, not {parts.scheme}://")
        if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("it has to be a host and a port, and nothing behind them")
        authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
        return cls(host, 80 if port is None else port, authorization)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Ways:
    """How connections to gateways are opened: through the proxy, if any, but for what is exempt."""

    proxy: Proxy | None = None
    exempt: tuple[str, ...] = ()  # as in NO_PROXY: names with all below them, addresses, networks, or *

    def proxy_for(self, host: str, port: int) -> Proxy | None:
        if self.proxy is None or any(_matches(rule, host.lower(), port) for rule in self.exempt):
            return None
        return self.proxy


DIRECT: Final = Ways()


def parse_proxy(text: str) -> Proxy | Off:
    """The value of --proxy."""
    return "off" if text == "off" else Proxy.parse(text)


def ways_by(text: str | None, environment: Mapping[str, str]) -> Ways:
    """`find_ways` for the text of --proxy on a command line; ConfigError, which never repeats it."""
    try:
        option = None if text is None else parse_proxy(text)
    except ValueError as error:
        raise ConfigError(f"--proxy (hidden): expected {EXPECTED}; {error}") from error
    return find_ways(option, environment)


def find_ways(option: Proxy | Off | None, environment: Mapping[str, str]) -> Ways:
    """What --proxy says, or else HTTPS_PROXY; NO_PROXY makes exemptions of either.

    Small letters win over capitals, as in curl. ConfigError when the variable cannot be used.
    """
    if option is None:
        name = "https_proxy" if environment.get("https_proxy") else "HTTPS_PROXY"
        try:
            option = Proxy.parse(value) if (value := environment.get(name)) else "off"
        except ValueError as error:
            raise ConfigError(f"{name}: expected http://[USER:PASSWORD@]HOST:PORT; {error}") from error
    if option == "off":
        return DIRECT
    exempt = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return Ways(option, tuple(exempt.lower().replace(",", " ").split()))


def _matches(rule: str, host: str, port: int) -> bool:
    """Whether a member of NO_PROXY covers the target."""
    if rule == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name, colon, digits = rule.rpartition(":")
        if colon and digits != str(port):
            return False
        name = (name if colon else rule).removeprefix("*").removeprefix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    bare = rule.strip("[]")
    try:
        return address in ipaddress.ip_network(bare, strict=False)
    except ValueError:
        name, _, digits = rule.rpartition(":")
        return name.strip("[]") == host and digits == str(port)
