"""The gateway's policy: who may reach which target of which node, as an operator wrote it down.

A policy is a list of permits in TOML; what none of them covers is refused, and order has no meaning. It
stands in front of the agent's allow list, which has the last word: both have to agree. A host is judged by
how it was asked for, because only the node knows what a name means there; so a name needs a permit with that
name, or `*`.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

import msgspec

from raven.errors import ConfigError
from raven.oam.asker import Asker, Who, matches_any
from raven.oam.kubelet import Verb
from raven.oam.policy import METADATA_ADDRESSES, Anywhere, Rule, literal_address, normal_host, real_address
from raven.oam.refusal import Refusal

PERMITS_MAX: Final = 10_000  # of one file; each request looks at them in order
FILE_MAX: Final = 4 << 20  # bytes; more is the wrong file

# Who stands on the gateway's machine reaches what the agents allow, as the first page of the manual does.
# Everybody else gets what OpenYurt proxies by default: kubelet and node exporter, and nothing beside.
DEFAULT_POLICY: Final = """\
# On the gateway's machine: whatever the agents allow.
[[permit]]
who = ["from:127.0.0.0/8", "from:[::1]", "uid:*"]
targets = ["*:*"]

# Everybody who reaches an entry: kubelet, its read-only port, node exporter, 9445.
[[permit]]
who = ["*"]
targets = ["node:10250", "node:10255", "node:9100", "node:9445"]
"""

_NODES = re.compile(r"[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?", re.ASCII)
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*permit[ \t]*\]\]", re.MULTILINE)

_Words = Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A permit as it stands in the file."""

    who: _Words
    targets: _Words
    nodes: _Words = msgspec.field(default_factory=lambda: ["*"])
    verbs: _Words | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """`who` may reach `targets` of `nodes`, for `verbs` alone where there are any.

    Verbs are seen where the gateway ends TLS in front of a kubelet, and nowhere else: a permit with verbs
    permits nothing at another entry.
    """

    who: tuple[Who, ...]
    nodes: tuple[str, ...]  # names, in which * stands for any characters
    targets: tuple[Rule, ...]
    verbs: tuple[Verb, ...] | None = None  # None for all, and for what has none

    def names(self, node: str) -> bool:
        return any(fnmatchcase(node, pattern) for pattern in self.nodes)

    def covers(self, node: str, host: str, port: int, verb: Verb | None = None) -> bool:
        return (
            (self.verbs is None or verb in self.verbs)
            and self.names(node)
            and any(rule.permits_port(port) and _is_host(rule, host) for rule in self.targets)
        )


class Policy:
    """A policy in force. Immutable."""

    def __init__(self, permits: tuple[Permit, ...]) -> None:
        self.permits = permits

    @classmethod
    def parse(cls, text: str, where: str = "policy") -> "Policy":
        """The policy that `text` spells; ConfigError with a line for each problem, opening with `where`."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where}: {error}; expected TOML") from None
        lines = [text.count("\n", 0, match.start()) + 1 for match in _HEADER.finditer(text)]
        problems: list[str] = []
        unknown = [key for key in data if key != "permit"]
        problems += [f"{where}: {key}: there is no such key; expected [[permit]] tables" for key in unknown]
        entries = data.get("permit", [])
        if not isinstance(entries, list) or len(entries) > PERMITS_MAX:
            raise ConfigError(f"{where}: permit: expected at most {PERMITS_MAX} [[permit]] tables")
        permits = []
        for number, entry in enumerate(entries):
            line = f":{lines[number]}" if len(lines) == len(entries) else ""
            found = list(_problems(entry))
            problems += [f"{where}{line}: permit[{number}]{problem}" for problem in found]
            if not found:
                permits.append(_permit(msgspec.convert(entry, _Entry)))
        if problems:
            raise ConfigError("\n".join(problems))
        return cls(tuple(permits))

    def judge(self, asker: Asker, node: str, host: str, port: int, verb: Verb | None = None) -> None:
        """Returns if `asker` may reach `host` ("" is the node itself) at `port` of `node`, for `verb`.

        Refusal "no-identity" where somebody else might, and the asker has not said who it is; else
        "not-permitted".
        """
        named = False
        for permit in self.permits:
            if permit.covers(node, host, port, verb):
                if matches_any(permit.who, asker):
                    return
                named = True
        shown = (
            f"{node}:{port}" if not host else f"{f'[{host}]' if ':' in host else host}:{port} behind {node}"
        )
        if verb is not None:
            shown = f"{verb} at {shown}"
        if named and not asker.names:
            raise Refusal(
                "no-identity",
                f"the gateway's policy permits {shown} to some, and you have not said who you are; ask with"
                " an access token or a client certificate",
            )
        raise Refusal(
            "not-permitted",
            f"the gateway's policy does not permit {shown} to {asker.identity}; its operator can add one",
        )

    def may_see(self, asker: Asker, node: str) -> bool:
        """Whether anything of `node` is permitted to `asker`."""
        return any(permit.names(node) and matches_any(permit.who, asker) for permit in self.permits)


def _is_host(rule: Rule, host: str) -> bool:
    """Whether `rule` covers a target that was asked for as `host`."""
    name = normal_host(host)
    address = literal_address(name)
    if address is not None:
        real = real_address(address)
        if isinstance(rule.host, Anywhere):
            return real not in METADATA_ADDRESSES if rule.host is Anywhere.ANY else real.is_loopback
        if isinstance(rule.host, str) or real not in rule.host:
            return False
        return real not in METADATA_ADDRESSES or rule.host.num_addresses == 1
    if rule.host is Anywhere.ANY or rule.host == name:
        return True
    return rule.host is Anywhere.NODE and name in ("", "localhost")


def _problems(entry: Any) -> Iterator[str]:
    """What is wrong with a permit of the file, each with its path."""
    try:
        permit = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        text = str(error).replace(" - at `$", " at `permit")
        yield f": {text}; expected who, targets and maybe nodes and verbs, each a list of words"
        return
    for key, words, parse in (
        ("who", permit.who, Who.parse),
        ("nodes", permit.nodes, _check_nodes),
        ("targets", permit.targets, _check_target),
        ("verbs", permit.verbs or [], _check_verb),
    ):
        for number, word in enumerate(words):
            try:
                parse(word)
            except ValueError as error:
                yield f".{key}[{number}]: {error}"


def _permit(entry: _Entry) -> Permit:
    return Permit(
        who=tuple(map(Who.parse, entry.who)),
        nodes=tuple(entry.nodes),
        targets=tuple(map(Rule.parse, entry.targets)),
        verbs=None if entry.verbs is None else tuple(map(Verb, entry.verbs)),
    )


def _check_nodes(word: str) -> None:
    if not _NODES.fullmatch(word):
        raise ValueError(f"{word!r}: expected the name of a node, in which * stands for any characters")


def _check_target(word: str) -> None:
    if Rule.parse(word).who:
        raise ValueError(f"{word!r}: here who asks stands in `who`, not behind the target")


def _check_verb(word: str) -> None:
    if word not in set(Verb):
        raise ValueError(f"{word!r}: expected one of {', '.join(Verb)}")


def default_policy() -> Policy:
    """What is in force where no file is given."""
    return Policy.parse(DEFAULT_POLICY)
