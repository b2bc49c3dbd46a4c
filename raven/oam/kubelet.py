"""What a request asks of a kubelet: a verb from its path, so that a policy can permit logs and refuse exec.

The paths are those of the kubelet's server (kubernetes/pkg/kubelet/server), as in
`/containerLogs/NAMESPACE/POD/CONTAINER` or `/stats/summary`. A path that two servers could read differently
(`//`, `..`, an encoded slash) is refused: the kubelet might see another verb in it. What is not known is
`other`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from raven.oam.refusal import Refusal


class Verb(StrEnum):
    """What somebody wants of a node, in the words of kubectl where it has one."""

    LOGS = "logs"
    """Reading a container's log."""
    EXEC = "exec"
    """Running a command in a container."""
    ATTACH = "attach"
    """Joining a container's own input and output."""
    PORT_FORWARD = "port-forward"
    """Connecting to a port inside a pod."""
    STATS = "stats"
    """What the node and its pods use: `kubectl top` and the summary API."""
    METRICS = "metrics"
    """The kubelet's Prometheus metrics, cAdvisor's among them."""
    PODS = "pods"
    """Which pods are there."""
    HEALTH = "health"
    """Whether the kubelet is well."""
    NODE_LOGS = "node-logs"
    """Files below /var/log of the node."""
    OTHER = "other"
    """Everything else a kubelet may have: debugging, configuration, checkpoints."""


_VERBS: Final = {
    "containerLogs": Verb.LOGS,
    "exec": Verb.EXEC,
    "run": Verb.EXEC,
    "attach": Verb.ATTACH,
    "portForward": Verb.PORT_FORWARD,
    "stats": Verb.STATS,
    "metrics": Verb.METRICS,
    "pods": Verb.PODS,
    "runningpods": Verb.PODS,
    "healthz": Verb.HEALTH,
    "logs": Verb.NODE_LOGS,
}
_OF_CONTAINERS: Final = frozenset({Verb.LOGS, Verb.EXEC, Verb.ATTACH, Verb.PORT_FORWARD})


@dataclass(frozen=True, slots=True)
class KubeletRequest:
    """What is asked, and of which container where it is about one."""

    verb: Verb
    namespace: str = ""
    pod: str = ""
    container: str = ""

    def __str__(self) -> str:
        what = "/".join(part for part in (self.namespace, self.pod, self.container) if part)
        return f"{self.verb} {what}" if what else str(self.verb)


def kubelet_request_untrusted(target: str) -> KubeletRequest:
    """What the request target (origin-form, query and all) asks; Refusal "bad-target"."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        raise Refusal(
            "bad-target", "expected a path of the kubelet, as in /containerLogs/NAMESPACE/POD/CONTAINER"
        )
    parts = [_plain(part) for part in path[1:].split("/")]
    if parts[-1] == "":
        parts.pop()  # /stats/ is /stats; a kubelet has both
    if any(part in ("", ".", "..") for part in parts):
        raise Refusal("bad-target", "the path has empty, . or .. segments; ask for it in its plain form")
    verb = _VERBS.get(parts[0], Verb.OTHER) if parts else Verb.OTHER
    if verb not in _OF_CONTAINERS:
        return KubeletRequest(verb)
    # /VERB/NAMESPACE/POD[/UID]/CONTAINER, and port forwarding without a container
    if len(parts) < 3:
        return KubeletRequest(verb)
    container = parts[-1] if verb is not Verb.PORT_FORWARD and len(parts) > 3 else ""
    return KubeletRequest(verb, parts[1], parts[2], container)


def _plain(part: str) -> str:
    """A segment decoded once; Refusal where decoding it again, or another reader, could split it."""
    decoded = unquote_to_bytes(part)
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal("bad-target", "the path is not UTF-8") from None
    if any(character in "/\\%;" or not character.isprintable() for character in text):
        raise Refusal("bad-target", "a segment of the path has a character that could change its meaning")
    return text
