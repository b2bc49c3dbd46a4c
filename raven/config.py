"""A daemon's options from one definition: its flags, its TOML keys, its errors and its reference.

A daemon declares a frozen msgspec struct whose fields carry an `option(...)`. The field `drain_seconds` is
then the flag `--drain-seconds` and the key `drain_seconds`; a flag beats the file, and the file the default.
Nobody has to guess: an error names where the value stood, the value, and what would have been right.
"""

from __future__ import annotations

import ipaddress
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import click
import msgspec

from raven.errors import ConfigError, PeerError
from raven.places import STATE_DIRECTORY
from raven.topology.model import parse_pod_networks_untrusted

Kind = TypeVar("Kind", bound=msgspec.Struct)
Command = TypeVar("Command", bound=Callable[..., object])
KUBELET_PORT = 10250
FILE_MAX = 1 << 20  # bytes; a configuration is some dozens of lines, so more is the wrong file


class Address(NamedTuple):
    """Where to listen or to dial; an empty `host` means every address of this machine."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, `[IPV6]:PORT`, or `*:PORT`; ValueError otherwise."""
        host, colon, digits = text.rpartition(":")
        if not colon or not digits.isascii() or not digits.isdigit() or not int(digits) < 1 << 16:
            raise ValueError("it has no port from 0 to 65535 after a colon")
        if host.startswith("[") and host.endswith("]"):
            host = str(ipaddress.IPv6Address(host[1:-1]))
        elif ":" in host:
            raise ValueError("an IPv6 address stands in brackets, as in [::1]:443")
        elif not host:
            raise ValueError("the host is missing; *:PORT means every address")
        return cls("" if host == "*" else host, int(digits))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host or "*"
        return f"{host}:{self.port}"


class Lead(NamedTuple):
    """Where to listen, and the port of a node that it leads to."""

    address: Address
    port: int

    @classmethod
    def parse(cls, text: str) -> Lead:
        """`HOST:PORT`, which leads to a kubelet, or `HOST:PORT=NODE_PORT`; ValueError otherwise."""
        listen, equals, digits = text.partition("=")
        if equals and not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 1 << 16):
            raise ValueError("the port behind = is not from 1 to 65535")
        return cls(Address.parse(listen), int(digits) if equals else KUBELET_PORT)

    def __str__(self) -> str:
        return str(self.address) + (f"={self.port}" if self.port != KUBELET_PORT else "")


def parse_listen_or_off(text: str) -> Address | None:
    """An address to listen on, or None for `off`."""
    return None if text == "off" else Address.parse(text)


def parse_dial(text: str) -> Address:
    """An address that another machine can dial: it has a host and a port other than 0."""
    address = Address.parse(text)
    if not address.host or not address.port:
        raise ValueError("others dial it, so it needs a host and a port")
    return address


def parse_dial_option(option: str, text: str) -> Address:
    """The same for a command's own option, which ConfigError then names."""
    try:
        return parse_dial(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected HOST:PORT; {error}") from error


def parse_cidr(text: str) -> str:
    """A pod network in its canonical spelling; ValueError for one that no node may carry."""
    try:
        (network,) = parse_pod_networks_untrusted([text])
    except PeerError as error:
        raise ValueError(str(error)) from error
    return str(network)


class Option(NamedTuple):
    """What a field's annotation says beside its type."""

    help: str  # a sentence or two of prose, for --help and the reference
    metavar: str
    expected: str  # completes "expected ...", in errors
    parse: Callable[[str], Any] | None  # text to value, for types that TOML does not have; raises ValueError
    secret: bool = False  # errors do not show the value, and `parse` does not repeat it in its own


def option(
    help: str,
    *,
    metavar: str = "",
    expected: str,
    parse: Callable[[str], Any] | None = None,
    secret: bool = False,
    **bounds: Any,
) -> msgspec.Meta:
    """The annotation of a field; `bounds` are msgspec's own constraints, such as ge and le."""
    return msgspec.Meta(extra={"option": Option(help, metavar, expected, parse, secret)}, **bounds)


class Field(NamedTuple):
    """One option as flags, file and reference see it."""

    key: str
    type: Any
    option: Option
    default: Any

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def many(self) -> bool:
        return get_origin(_bare(self.type)) is tuple

    @property
    def default_text(self) -> str:
        """The default as one would write it on a command line; empty for none."""
        if self.default is None:
            return "off" if self.option.parse is parse_listen_or_off else ""
        if isinstance(self.default, tuple) and not isinstance(self.default, Address):
            return " ".join(map(str, self.default))
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def fields(kind: type[msgspec.Struct]) -> list[Field]:
    """The options of `kind` in the order they were declared."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in msgspec.structs.fields(kind):
        extra = next(meta.extra for meta in get_args(hints[field.name])[1:] if isinstance(meta, msgspec.Meta))
        assert extra is not None, f"{kind.__name__}.{field.name} has no option(...)"
        found.append(Field(field.name, hints[field.name], extra["option"], field.default))
    return found


def flags(kind: type[msgspec.Struct]) -> Callable[[Command], Command]:
    """A decorator that gives a click command every option of `kind`, plus --config."""

    def decorate(command: Command) -> Command:
        for field in reversed(fields(kind)):
            text = field.option.help
            if field.many:
                text += " May be given several times."
            if _bare(field.type) is bool:
                opposite = (
                    field.flag.replace("--no-", "--") if "--no-" in field.flag else f"--no-{field.flag[2:]}"
                )
                decorator = click.option(f"{field.flag}/{opposite}", field.key, default=None, help=text)
            else:
                decorator = click.option(
                    field.flag,
                    field.key,
                    multiple=field.many,
                    metavar=field.option.metavar,
                    default=None,
                    help=f"{text}  [default: {field.default_text}]" if field.default_text else text,
                )
            command = decorator(command)
        return click.option(
            "--config",
            metavar="FILE",
            default=None,
            help="TOML file of the same options; --drain-seconds is drain_seconds there. Flags beat it.",
        )(command)

    return decorate


def _value(field: Field, raw: Any, *, strict: bool) -> Any:
    """The field's value from a flag's or a key's; ValueError says what was expected."""
    expected = f"expected {field.option.expected}"
    if field.option.parse is None:
        if isinstance(raw, float) and raw.is_integer() and _bare(field.type) is int:
            raw = int(raw)  # Helm reads the numbers of a values file as floats, and so writes 64.0 for 64
        try:
            return msgspec.convert(raw, field.type, strict=strict)
        except msgspec.ValidationError as error:
            raise ValueError(expected) from error
    if isinstance(raw, str) == field.many:
        raise ValueError(f"{expected}, {'in a list' if field.many else 'as text'}")
    texts = raw if field.many else [raw]
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{expected}, {'in a list' if field.many else 'as text'}")
    try:
        parsed = [field.option.parse(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{expected}; {error}") from error
    return tuple(parsed) if field.many else parsed[0]


def load(kind: type[Kind], *, config: str | None = None, given: Mapping[str, Any]) -> Kind:
    """The options from flags (`given`, None or empty where absent), else the file, else the defaults.

    Raises ConfigError with one line for each problem, so that they can be mended in one go.
    """
    known = {field.key: field for field in fields(kind)}
    values: dict[str, Any] = {}
    problems: list[str] = []

    def take(key: str, raw: Any, shown: str, *, strict: bool) -> None:
        try:
            values[key] = _value(known[key], raw, strict=strict)
        except ValueError as error:
            problems.append(f"{shown}: {error}")

    def show(key: str, text: str) -> str:
        return "(hidden)" if known[key].option.secret else text

    for key, raw in (_read(config) if config is not None else {}).items():
        if key not in known:
            problems.append(f"{config}: {key}: there is no such key{_nearest(key, list(known))}")
        elif given.get(key) in (None, ()):
            take(key, raw, f"{config}: {key} = {show(key, _shown(raw))}", strict=True)
    for key, raw in given.items():
        if raw is not None and raw != ():
            shown = " ".join(raw) if isinstance(raw, tuple) else str(raw)
            take(key, raw, f"{known[key].flag} {show(key, shown)}", strict=False)
    if problems:
        raise ConfigError("\n".join(problems))
    return kind(**values)


def _read(path: str) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise ConfigError(f"{path}: larger than {FILE_MAX} bytes, so not a configuration file")
        return _flat(tomllib.loads(data.decode()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a readable TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f'{path}: {error}; expected TOML, as in: log_level = "info"') from error


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """A key of a table is the option TABLE_KEY, so that a [table] may hold what belongs together."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        inner = (
            {f"{key}_{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        )
        flat |= inner
    return flat


def _shown(raw: Any) -> str:
    text = json.dumps(raw, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(key: str, known: list[str]) -> str:
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(sorted(known))}"


def reference(kind: type[msgspec.Struct]) -> str:
    """A Markdown table of every option of `kind`, for the documentation."""
    lines = ["| flag | key | default | what it does |", "|---|---|---|---|"]
    for field in fields(kind):
        metavar = f" {field.option.metavar}" if field.option.metavar else ""
        default = f"`{field.default_text}`" if field.default_text else ""
        lines.append(f"| `{field.flag}{metavar}` | `{field.key}` | {default} | {field.option.help} |")
    return "\n".join(lines) + "\n"


WG_INTERFACE = option(
    "Name of the packet lane's WireGuard device; one that exists is adopted.",
    metavar="NAME",
    expected="an interface name of 1 to 15 characters",
    pattern=r"^[a-zA-Z0-9_.=+-]{1,15}\Z",
)
LISTEN = "an address to listen on, as in 0.0.0.0:10262, [::]:10262 or *:10262"


class DaemonOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What both daemons can be told."""

    state_dir: Annotated[
        Path,
        option(
            "Directory of the keys and certificates; only its owner can read it.",
            metavar="DIR",
            expected="a directory",
            parse=Path,
        ),
    ] = STATE_DIRECTORY
    pod_cidr: Annotated[
        tuple[str, ...],
        option(
            "A pod network behind this machine, which the packet lane makes reachable.",
            metavar="CIDR",
            expected="networks, as in 10.244.0.0/24 or fd00:10::/64",
            parse=parse_cidr,
        ),
    ] = ()
    no_packets: Annotated[
        bool,
        option("Leave the packet lane off; O&M and metrics do not need it.", expected="true or false"),
    ] = False
    wg_interface: Annotated[str, WG_INTERFACE] = "raven0"
    backend: Annotated[
        Literal["auto", "kernel", "userspace"],
        option(
            "Who carries packets: the kernel's WireGuard, raven-wg, or the kernel's where it has one.",
            metavar="WHICH",
            expected="auto, kernel or userspace",
        ),
    ] = "auto"
    socket_group: Annotated[
        str,
        option(
            "Group whose members may use ravenctl beside the daemon's own user.",
            metavar="GROUP",
            expected="the name of a group",
        ),
    ] = ""
    drain_seconds: Annotated[
        float,
        option(
            "How long streams may finish after SIGTERM; a second SIGTERM ends them at once.",
            metavar="SECONDS",
            expected="a number of seconds from 0 to 3600",
            ge=0,
            le=3600,
        ),
    ] = 10.0
    resume_seconds: Annotated[
        float,
        option(
            "How long the streams of a tunnel wait for another connection after theirs broke; 0 ends them "
            "with it. The shorter of both ends counts.",
            metavar="SECONDS",
            expected="a number of seconds from 0 to 3600",
            ge=0,
            le=3600,
        ),
    ] = 60.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        option("The least severe lines to log.", metavar="LEVEL", expected="debug, info, warning or error"),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        option(
            "Text for people, json for collectors; auto is text on a terminal and json elsewhere.",
            metavar="FORMAT",
            expected="auto, text or json",
        ),
    ] = "auto"
